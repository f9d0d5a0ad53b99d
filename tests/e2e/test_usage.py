"""What was used, from OpenAI's SDK to GET /usage, and nothing of anybody else's."""

import secrets

from openai import OpenAI

from tests.e2e.house import Account, House


def say(client: OpenAI, model: str, text: str) -> tuple[int, int]:
    """Prompt in JSON mode; return what the client is told that it took."""
    answer = client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}])
    assert answer.usage is not None
    return answer.usage.prompt_tokens, answer.usage.completion_tokens


def stream(client: OpenAI, model: str, text: str) -> None:
    chunks = client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}], stream=True)
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "stop"


def recorded(house: House, account: Account, count: int) -> None:
    house.eventually(
        lambda: house.usage(account.by_token)["totals"]["requests"] == count, seconds=10, what="record of usage"
    )


def test_chats_of_openais_sdk_are_added_up_by_day_model_and_key_for_their_user_only(house: House) -> None:
    """B21, C11, C14: the figures are those that the client was told."""
    account = house.new_account(automation=True)
    other_key = house.new_key(account)
    stranger = house.new_account(automation=True)
    text = f"planted {secrets.token_hex(8)}"
    prompt, completion = say(house.openai(account.key), house.llm, text)
    stream(house.openai(account.key), house.llm, text)
    say(house.openai(other_key.key), house.llm, text)
    say(house.openai(stranger.key), house.llm, "hello")
    recorded(house, account, 3)
    recorded(house, stranger, 1)

    days = house.usage(account.by_token)
    models = house.usage(account.by_token, group_by="model")
    keys = house.usage(account.by_token, group_by="key")
    own = house.usage(account.by_key, group_by="key")

    sums = {"requests": 3, "errors": 0, "cancelled": 0, "estimated": 0}
    figures = {"prompt_tokens": 3 * prompt, "completion_tokens": 3 * completion}
    totals = {**sums, **figures, "total_tokens": 3 * (prompt + completion)}
    assert days["totals"] == models["totals"] == keys["totals"] == totals
    # a run may be over midnight
    assert sum(group["requests"] for group in days["groups"]) == 3
    assert [(group["group"], group["model"]) for group in models["groups"]] == [(house.llm_id, house.llm)]
    assert [(group["group"], group["requests"]) for group in keys["groups"]] == [
        (account.key_id, 2),
        (other_key.key_id, 1),
    ]
    assert [(group["group"], group["requests"]) for group in own["groups"]] == [(account.key_id, 2)]
    # the words of a prompt are where its owner reads them, and nowhere else
    assert [place for place, content in house.everything_written().items() if text.encode() in content] == []


def test_a_time_that_is_too_long_is_refused_by_those_who_know_the_records(house: House, account: Account) -> None:
    answer = house.http.get("usage", params={"from": "2026-01-01", "to": "2026-06-01"}, headers=account.by_token)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "from")
