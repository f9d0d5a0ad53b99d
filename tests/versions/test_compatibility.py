"""This version beside the previous one, by what both say and read; and that no break of it would pass."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.versions.compatibility import covers, differences
from tests.versions.contract import PREVIOUS, contract

Json = dict[str, Any]

OLD: Json = json.loads(PREVIOUS.read_text())
TEXT = json.dumps(contract())
NEW: Json = json.loads(TEXT)


def test_this_version_and_the_previous_one_understand_each_other_both_ways() -> None:
    """C52. A break is a new version of the subject, beside the old one for as long as a release."""
    assert differences(OLD, NEW) == []


def test_a_version_understands_itself() -> None:
    assert differences(NEW, NEW) == []


def _definition(contract: Json, model: str, part: str = "write") -> Json:
    """The schema of a head, question, answer, event or document as it is written or read."""
    kind, _, name = model.partition(":")
    places = contract[kind][name.partition("/")[0]]
    definition: Json = contract["definitions"][(places[name.partition("/")[2]] if "/" in name else places)[part]]
    return definition


def _both(contract: Json, model: str, change: Callable[[Json], None]) -> None:
    changed: list[Json] = []
    for part in ("read", "write"):
        definition = _definition(contract, model, part)
        if not any(definition is done for done in changed):
            change(definition)
            changed.append(definition)


HEAD = "heads:PromptHead"
EVENT = "events:evt.auth.key.deactivated.v1"
QUESTION = "rpcs:rpc.sessions.open.v1/question"
ANSWER = "rpcs:rpc.auth.register.v1/answer"
STORED = "documents:sessions.operations"


def _without(name: str) -> Callable[[Json], None]:
    def change(definition: Json) -> None:
        del definition["properties"][name]
        definition["required"] = [item for item in definition["required"] if item != name]

    return change


def _required(name: str) -> Callable[[Json], None]:
    def change(definition: Json) -> None:
        definition["properties"].setdefault(name, {"type": "string"})
        definition["required"] = [*definition["required"], name]

    return change


def _schema(name: str, schema: Json) -> Callable[[Json], None]:
    def change(definition: Json) -> None:
        definition["properties"][name] = schema

    return change


def _in_models(model: str, change: Callable[[Json], None]) -> Callable[[Json], None]:
    return lambda contract: _both(contract, model, change)


def _enum_wider(contract: Json) -> None:
    contract["definitions"]["Endpoint"]["enum"].append("audio/speech")


def _enum_narrower(contract: Json) -> None:
    contract["definitions"]["Endpoint"]["enum"].remove("embeddings")


def _stored_state(contract: Json) -> None:
    contract["definitions"]["OperationState"]["enum"].append("postponed")


def _bounded_amount(contract: Json) -> None:
    _definition(contract, "rpcs:rpc.sessions.approve.v1/question", "read")["properties"]["amount"]["maximum"] = 10**18


def _at(*path: str, value: Any) -> Callable[[Json], None]:
    def change(contract: Json) -> None:
        place = contract
        for step in path[:-1]:
            place = place[step]
        if value is None:
            del place[path[-1]]
        else:
            place[path[-1]] = value

    return change


def _less(*path: str, item: str) -> Callable[[Json], None]:
    def change(contract: Json) -> None:
        place: Any = contract
        for step in path:
            place = place[step]
        place.remove(item)

    return change


def _never(contract: Json) -> None:
    contract["permissions"]["gateway"]["never"].append("chat.cancel.*.*")


BREAKS: dict[str, tuple[Callable[[Json], None], str]] = {
    "a field of a prompt's head is gone": (_in_models(HEAD, _without("credit")), "PromptHead.credit is gone"),
    "a required field of a prompt's head is gone": (_in_models(HEAD, _without("key_id")), "PromptHead.key_id"),
    "a new field is required": (_in_models(HEAD, _required("tenant")), "PromptHead.tenant"),
    "an optional field becomes required": (_in_models(HEAD, _required("ping")), "PromptHead.ping"),
    "a field has another type": (_in_models(HEAD, _schema("attempt", {"type": "integer"})), "PromptHead.attempt"),
    "a field may be null": (
        _in_models(HEAD, _schema("attempt", {"anyOf": [{"type": "string"}, {"type": "null"}]})),
        "PromptHead.attempt",
    ),
    "a field may be null no more": (
        _in_models(HEAD, _schema("session_id", {"type": "string", "pattern": "^0x[0-9a-f]{64}$"})),
        "PromptHead.session_id",
    ),
    "a pattern is another": (
        _in_models(HEAD, _schema("attempt", {"type": "string", "pattern": "^[0-9]+$"})),
        "PromptHead.attempt",
    ),
    "a bound is lower": (
        _in_models(HEAD, _schema("open_wait", {"type": "number", "minimum": 0, "maximum": 60})),
        "PromptHead.open_wait",
    ),
    "a bound is higher": (
        _in_models(HEAD, _schema("open_wait", {"type": "number", "minimum": 0, "maximum": 900})),
        "PromptHead.open_wait",
    ),
    "a bound of an amount is new": (_bounded_amount, "rpc.sessions.approve.v1 question.amount"),
    "an enumeration has a new word": (_enum_wider, "'audio/speech'"),
    "an enumeration has a word less": (_enum_narrower, "'embeddings'"),
    "a stored enumeration has a new word": (_stored_state, "'postponed'"),
    "a field of an event is gone": (_in_models(EVENT, _without("user_id")), "key.deactivated.v1.user_id"),
    "a field of a question is gone": (_in_models(QUESTION, _without("key_id")), "rpc.sessions.open.v1 question.key_id"),
    "a field of an answer is gone": (_in_models(ANSWER, _without("id")), "rpc.auth.register.v1 answer.id"),
    "a field of a document is gone": (_in_models(STORED, _without("kind")), "sessions.operations.kind"),
    "a document has a field that must be there": (
        _in_models(STORED, _required("region")),
        "sessions.operations.region",
    ),
    "what is unknown is refused": (
        _in_models(HEAD, lambda definition: definition.update(additionalProperties=False, properties={})),
        "PromptHead.attempt",
    ),
    "a schema has a word that is not compared": (
        _in_models(HEAD, _schema("attempt", {"type": "string", "contentEncoding": "base64"})),
        "contentEncoding cannot be compared",
    ),
    "a question is gone": (_at("rpcs", "rpc.sessions.open.v1", value=None), "rpc.sessions.open.v1 is gone"),
    "an event is gone": (_at("events", "evt.auth.key.deactivated.v1", value=None), "deactivated.v1 is gone"),
    "a document is gone": (_at("documents", "sessions.usage", value=None), "sessions.usage is gone"),
    "a caller may ask no more": (
        _less("rpcs", "rpc.auth.check_key.v1", "callers", item="gateway"),
        "rpc.auth.check_key.v1 may not be asked by gateway",
    ),
    "a question moves": (_at("rpcs", "rpc.sessions.open.v1", "service", value="auth"), "another service"),
    "an error code is gone": (_less("errors", item="session_busy"), "error code session_busy"),
    "a header has another name": (_at("wire", "headers", "KIND", value="Mor-Type"), "KIND was 'Mor-Kind'"),
    "an event's header is gone": (_at("wire", "event headers", "ce-sequence", value=None), "ce-sequence was"),
    "a frame counts otherwise": (_at("wire", "frame headers", "Mor-Seq", value="003"), "Mor-Seq was '3'"),
    "a kind of frame is gone": (_at("wire", "frames", "last", value=None), "last was"),
    "a kind of frame is new": (_at("wire", "frames", "pause", value="pause"), "does not know the kind pause"),
    "the envelope is another": (_at("wire", "error envelope", "error", value={"code": 1}), "error envelope"),
    "a chat subject is another": (_at("wire", "chat subjects", "credit", value="chat.pay.w.a"), "credit was"),
    "a consumer is gone": (_at("wire", "consumers", "EVENTS sessions-keys", value=None), "EVENTS sessions-keys was"),
    "an inbox is another": (_at("wire", "inboxes", "gateway", value="_INBOX_g"), "gateway was '_INBOX_gw'"),
    "a right is gone": (_less("permissions", "gateway", "publish", item="chat.cancel.*.*"), "gateway may not publish"),
    "a part of a right is taken back": (_never, "gateway is newly refused chat.cancel.*.*"),
    "nobody may answer": (_at("permissions", "auth", "answers", value=False), "auth may not answer"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_break_is_found_and_named(name: str) -> None:
    """C52: each is a change that one of the two versions would stumble over."""
    broken: Json = json.loads(TEXT)
    change, said = BREAKS[name]
    change(broken)
    found = differences(NEW, broken)
    assert [sentence for sentence in found if said in sentence], found


GROWTH: dict[str, Callable[[Json], None]] = {
    "an optional field": _in_models(HEAD, _schema("tenant", {"anyOf": [{"type": "string"}, {"type": "null"}]})),
    "a question": lambda contract: contract["rpcs"].update({"rpc.auth.new.v1": contract["rpcs"]["rpc.auth.ping.v1"]}),
    "a caller": lambda contract: contract["rpcs"]["rpc.auth.ping.v1"]["callers"].append("ops"),
    "an event": lambda contract: contract["events"].update({"evt.a.b.c.v1": contract["events"][EVENT[7:]]}),
    "a document": lambda contract: contract["documents"].update({"auth.x": contract["documents"]["auth.users"]}),
    "an error code": lambda contract: contract["errors"].append("new_one"),
    "a right": lambda contract: contract["permissions"]["gateway"]["publish"].append("rpc.auth.new.v1"),
    "a wider right": lambda contract: contract["permissions"]["gateway"].update(publish=[">"]),
}


@pytest.mark.parametrize("name", GROWTH)
def test_what_grows_is_no_break(name: str) -> None:
    grown: Json = json.loads(TEXT)
    GROWTH[name](grown)
    assert grown != NEW
    assert differences(NEW, grown) == []


@pytest.mark.parametrize(
    ("pattern", "subject", "allowed"),
    [
        ("a.b", "a.b", True),
        ("a.*", "a.b", True),
        ("a.*", "a.*", True),
        ("a.>", "a.b.c", True),
        (">", "a.>", True),
        ("a.>", "a.>", True),
        ("a.>", "a", False),
        ("a.*", "a.>", False),
        ("a.b", "a.*", False),
        ("a.*", "a.b.c", False),
        ("a.b.c", "a.b", False),
        ("a.b", "a.c", False),
    ],
)
def test_a_right_is_covered_by_as_wide_a_one(pattern: str, subject: str, allowed: bool) -> None:
    assert covers(pattern, subject) is allowed
