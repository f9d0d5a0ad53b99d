import json
from typing import Any

import pytest
from proxy_router_sim.answers import answer, content_text, count_prompt_tokens


def ask(text: Any = "what is a bid", **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **fields}


def tool(parameters: Any, name: str = "look_up") -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def arguments(parameters: Any, text: str = "the question") -> Any:
    [choice] = answer(ask(text, tools=[tool(parameters)]), seed=1)
    assert choice.tool_call is not None
    return json.loads(choice.tool_call.arguments)


def test_an_answer_echoes_the_question_and_goes_on() -> None:
    [choice] = answer(ask(), seed=1)
    assert choice.text.startswith("You asked: what is a bid. ")
    assert len(choice.text) > len("You asked: what is a bid. ") + 20
    assert choice.finish_reason == "stop"


def test_the_same_question_has_the_same_answer_and_another_seed_another() -> None:
    assert answer(ask(), seed=1) == answer(ask(), seed=1)
    assert answer(ask(), seed=1) != answer(ask(), seed=2)
    assert answer(ask(), seed=1) != answer(ask("what is an ask"), seed=1)


def test_spaces_and_line_breaks_of_the_question_survive() -> None:
    question = "  first line\n\n\tsecond   line  "
    assert f"You asked: {question}." in answer(ask(question), seed=1)[0].text


def test_the_last_message_of_the_user_counts() -> None:
    messages = [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "second"},
    ]
    [choice] = answer({"messages": messages}, seed=1)
    assert choice.text.startswith("You asked: second. ")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("plain", "plain"),
        ([{"type": "text", "text": "two "}, {"type": "text", "text": "parts"}], "two parts"),
        ([{"type": "image_url", "image_url": {"url": "data:"}}, {"type": "text", "text": "see"}], "see"),
        (None, ""),
        (7, ""),
    ],
)
def test_content_is_text_or_the_text_parts_of_a_list(content: Any, text: str) -> None:
    assert content_text(content) == text


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_limit_cuts_words(name: str) -> None:
    [choice] = answer(ask(**{name: 4}), seed=1)
    assert choice.text == "You asked: what is"
    assert choice.finish_reason == "length"


def test_several_choices_differ() -> None:
    choices = answer(ask(n=3), seed=1)
    assert len({choice.text for choice in choices}) == 3


def test_tokens_of_a_prompt_count_messages_names_and_text() -> None:
    assert count_prompt_tokens([{"role": "user", "content": "one two"}]) == 6
    assert count_prompt_tokens([{"role": "user", "name": "ann", "content": "one two"}]) == 7


def test_required_arguments_fit_the_schema() -> None:
    schema = {
        "type": "object",
        "properties": {
            "query": {"type": "string"},
            "short": {"type": "string", "maxLength": 3},
            "unit": {"type": "string", "enum": ["celsius", "kelvin"]},
            "count": {"type": "integer", "minimum": 5},
            "ratio": {"type": "number", "maximum": 0.5},
            "exact": {"type": "boolean"},
            "tags": {"type": "array", "items": {"type": "string"}},
            "place": {"$ref": "#/$defs/Place"},
            "when": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "optional": {"type": "string"},
        },
        "required": ["query", "short", "unit", "count", "ratio", "exact", "tags", "place", "when"],
        "$defs": {"Place": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}},
    }
    assert arguments(schema) == {
        "query": "the question",
        "short": "the",
        "unit": "celsius",
        "count": 5,
        "ratio": 0.5,
        "exact": True,
        "tags": ["the question"],
        "place": {"city": "the question"},
        "when": "the question",
    }


@pytest.mark.parametrize("schema", [None, {}, {"type": "object"}, {"type": "string"}, [], "nonsense"])
def test_arguments_are_an_object_whatever_the_schema(schema: Any) -> None:
    assert arguments(schema) == {}


def test_a_schema_that_contains_itself_ends() -> None:
    schema = {"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]}
    assert "next" in arguments(schema)


def test_the_named_function_is_called_else_the_first() -> None:
    tools = [tool({}, "first"), tool({}, "second")]
    [named] = answer(ask(tools=tools, tool_choice={"type": "function", "function": {"name": "second"}}), seed=1)
    [unnamed] = answer(ask(tools=tools, tool_choice="auto"), seed=1)
    assert named.tool_call is not None
    assert unnamed.tool_call is not None
    assert (named.tool_call.name, unnamed.tool_call.name) == ("second", "first")
    assert named.finish_reason == "tool_calls"


def test_no_tool_is_called_when_the_choice_is_none_or_there_is_none() -> None:
    assert answer(ask(tools=[tool({})], tool_choice="none"), seed=1)[0].tool_call is None
    assert answer(ask(tools=[]), seed=1)[0].tool_call is None


def test_after_the_tool_has_answered_comes_text_with_what_it_said() -> None:
    messages = [
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ]
    [choice] = answer({"messages": messages, "tools": [tool({})]}, seed=1)
    assert choice.tool_call is None
    assert "weather?" in choice.text
    assert "sunny" in choice.text


def test_a_stop_sequence_ends_the_text_before_it() -> None:
    [whole] = answer(ask("one STOP two END three"), seed=1)
    assert "STOP" in whole.text
    for stop in ("STOP", ["END", "STOP", ""], ["STOP"]):
        [choice] = answer(ask("one STOP two END three", stop=stop), seed=1)
        assert choice.text == "You asked: one"
        assert choice.finish_reason == "stop"
    assert answer(ask("one STOP two END three", stop=["absent", 7]), seed=1) == [whole]


def test_a_seed_of_the_request_chooses_the_words() -> None:
    assert answer(ask(seed=7), seed=1) == answer(ask(seed=7), seed=1)
    assert answer(ask(seed=7), seed=1) != answer(ask(seed=8), seed=1)
    assert answer(ask(seed=7), seed=1) != answer(ask(), seed=1)


def test_a_response_format_makes_the_answer_json() -> None:
    schema = {
        "type": "object",
        "properties": {"place": {"$ref": "#/$defs/Place"}, "count": {"type": "integer"}},
        "required": ["place", "count"],
        "$defs": {"Place": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}},
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "found", "schema": schema}}
    [choice] = answer(ask("so  much", response_format=wanted), seed=1)
    assert json.loads(choice.text) == {"place": {"city": "so  much"}, "count": 1}
    [choice] = answer(ask("so  much", response_format={"type": "json_object"}), seed=1)
    assert json.loads(choice.text) == {"answer": "so  much"}
    [choice] = answer(ask("so  much", response_format={"type": "text"}), seed=1)
    assert choice.text.startswith("You asked")
