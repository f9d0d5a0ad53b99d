"""The table of the HTTP API: what a client is told of each failure upstream, and whether another provider or session is tried."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tests.service.relay.cases import REFUSAL, ROUTER_TEXTS
from tests.service.relay.house import MODEL, WORDS, RelayHouse, events

pytestmark = pytest.mark.asyncio(loop_scope="module")

STREAMS = [False, True]


@dataclass(frozen=True)
class Told:
    """What a client reads."""

    status: int
    code: str
    retry: bool
    retry_after: bool = False


REFUSED = Told(400, "context_length_exceeded", retry=False)
OWN_TROUBLE = Told(502, "provider_error", retry=False)
OVERLOADED = Told(503, "provider_overloaded", retry=True, retry_after=True)
TIMED_OUT = Told(504, "provider_timeout", retry=False)
MODEL_ERRORS = {
    **dict.fromkeys([400, 413, 418, 422], REFUSED),
    **dict.fromkeys([401, 402, 403, 404], OWN_TROUBLE),
    **dict.fromkeys([408, 409, 425, 429, 500, 502, 503, 529], OVERLOADED),
}
ROUTER_ERRORS = {
    "reset": OWN_TROUBLE,
    "timed out": TIMED_OUT,
    "provider request failed: provider error: failed to prompt: context deadline exceeded": TIMED_OUT,
    "provider request failed: provider error: user not found": OWN_TROUBLE,
    "provider request failed: failed to decrypt ai response chunk: cipher": OWN_TROUBLE,
    "api adapter not found: ": OWN_TROUBLE,
}


async def told(house: RelayHouse, stream: bool, action: str, **params: Any) -> Told:
    """Strike a prompt before its first chunk, and return what its client is told; the session is kept."""
    key = await house.warm_key()
    await house.simulator.arm("chat", action, match=key.session, **params)
    answer = await house.prompt(key, stream=stream)
    error = answer.json()["error"]
    assert {"message", "type", "param", "code"} <= error.keys()
    assert "10.77.0.11" not in answer.text
    assert (await house.document(key.session))["state"] == "active"
    house.idle.append(key)
    retry = answer.headers["x-should-retry"] == "true"
    return Told(answer.status_code, error["code"], retry, "retry-after" in answer.headers)


@pytest.mark.parametrize("passed", [False, True], ids=["told in statusCode", "as status too"])
@pytest.mark.parametrize("status", MODEL_ERRORS)
async def test_a_models_error_is_told_by_its_status(house: RelayHouse, status: int, passed: bool) -> None:
    """F11: the row of 400, 413, 422 and unknown ones, that of 401 to 404, and that of 408, 409, 425, 429 and 5xx."""
    for stream in STREAMS:
        if passed:
            found = await told(house, stream, "model_error", status=status, pass_status=True, body=REFUSAL)
        else:
            error = {**REFUSAL["error"], "code": status}
            found = await told(house, stream, "model_error", body={"error": error})
        expected = MODEL_ERRORS[status]
        if expected is REFUSED and not passed:
            expected = Told(400, "provider_rejected", retry=False)
        assert found == expected


@pytest.mark.parametrize("text", ROUTER_ERRORS)
async def test_a_routers_error_is_told_by_its_text(house: RelayHouse, text: str) -> None:
    for stream in STREAMS:
        found = await told(house, stream, "raw_error", text=ROUTER_TEXTS.get(text, text))
        assert found == ROUTER_ERRORS[text]


async def test_silence_is_a_time_out_that_nobody_is_to_repeat(house: RelayHouse) -> None:
    """B18: no first byte, and silence in between."""
    for stream in STREAMS:
        with house.patience(0.5):
            assert await told(house, stream, "stall") == TIMED_OUT
        # the session rests
        house.idle.clear()
    key = await house.warm_key()
    await house.simulator.arm("chat", "stall", match=key.session, at=2)
    with house.patience(0.5):
        answer = await house.prompt(key, stream=True)
    assert events(answer.content)[-1]["error"]["code"] == "provider_timeout"
    await house.at_rest()


async def test_of_two_answers_one_alone_is_not_the_end(house: RelayHouse) -> None:
    """F21, B1: a stream cut between them, or in the second, would look whole."""
    key = await house.warm_key()
    for at in (len(WORDS) + 1, len(WORDS) + 2):
        await house.simulator.arm("chat", "truncate", match=key.session, at=at)
        told = events((await house.prompt(key, stream=True, n=2)).content)
        assert told[-1]["error"]["code"] == "stream_truncated"
    whole = await house.prompt(key, stream=True, n=2)
    assert not any("error" in event for event in events(whole.content))
    assert [choice["message"]["content"] for choice in (await house.prompt(key, n=2)).json()["choices"]] == [
        "".join(WORDS),
        "".join(WORDS),
    ]
    house.idle.append(key)


# another session, another provider


@asynccontextmanager
async def only_provider(house: RelayHouse, provider: str) -> AsyncIterator[None]:
    """Nobody else offers anything while the block runs."""
    others = [bid for bid in house.simulator.market.bids.values() if bid.provider != provider and bid.active]
    for bid in others:
        await house.simulator.post("/sim/bids", {"id": bid.id, "deleted": True})
    yield
    for bid in others:
        await house.simulator.post("/sim/bids", {"id": bid.id, "deleted": False})


@pytest.mark.parametrize("stream", STREAMS)
async def test_a_lost_session_is_opened_again_once_and_the_prompt_sent_again_once(
    house: RelayHouse, stream: bool
) -> None:
    """F29"""
    key = await house.warm_key()
    before = await house.simulator.prompts()
    await house.simulator.arm("chat", "raw_error", match=key.session, text=ROUTER_TEXTS["session expired"])
    answer = await house.prompt(key, stream=stream)
    assert answer.status_code == 200
    assert answer.headers["x-morpheus-session"] != key.session
    assert await house.simulator.prompts() == before + 2
    lost = await house.document(key.session)
    # it is not of the key any more and runs out: an early close would lock its stake for a day (F10)
    assert (lost["state"], lost["reason"], lost["slot"]) == ("parked", "lost", None)


@pytest.mark.parametrize("stream", STREAMS)
async def test_a_prompt_is_not_sent_a_third_time(house: RelayHouse, stream: bool) -> None:
    key = await house.warm_key()
    before = await house.simulator.prompts()
    await house.simulator.arm("chat", "raw_error", count=2, text="session expired")
    answer = await house.prompt(key, stream=stream)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "session_lost")
    assert await house.simulator.prompts() == before + 2


async def test_a_session_lost_in_the_middle_of_an_answer_is_told_and_nothing_is_sent_twice(house: RelayHouse) -> None:
    """B4"""
    key = await house.warm_key()
    before = await house.simulator.prompts()
    await house.simulator.arm("chat", "raw_error", match=key.session, at=1, text="session expired")
    answer = await house.prompt(key, stream=True)
    first, error = events(answer.content)
    assert first["choices"][0]["delta"]["content"] == WORDS[0]
    assert error["error"]["code"] == "session_lost"
    assert await house.simulator.prompts() == before + 1


NO_GOOD = [("unreachable", False), ("bad signature", True), ("attestation", False)]


@pytest.mark.parametrize(("text", "stream"), NO_GOOD)
async def test_what_a_provider_is_no_good_for_another_one_does_if_there_is_one(
    house: RelayHouse, text: str, stream: bool
) -> None:
    """F10, F26: of the same model, and never with the same provider, which would take a second stake."""
    key = await house.warm_key()
    await house.simulator.arm("chat", "raw_error", match=key.session, text=ROUTER_TEXTS[text])
    answer = await house.prompt(key, stream=stream)
    assert answer.status_code == 200
    assert answer.headers["x-morpheus-model"] == MODEL
    first, second = [await house.document(at) for at in (key.session, answer.headers["x-morpheus-session"])]
    assert second["provider"] != first["provider"]
    assert (first["state"], second["state"]) == ("parked", "active")


@pytest.mark.parametrize(("text", "stream"), NO_GOOD)
async def test_where_there_is_no_other_provider_its_error_is_told_and_the_session_kept(
    house: RelayHouse, text: str, stream: bool
) -> None:
    """F10: close and open again, prompt after prompt, locked stakes of a whole day; F26: nor does another model answer."""
    key = await house.warm_key()
    opened = (await house.simulator.state())["opens_total"]
    async with only_provider(house, (await house.document(key.session))["provider"]):
        await house.simulator.arm("chat", "raw_error", match=key.session, text=ROUTER_TEXTS[text])
        answer = await house.prompt(key, stream=stream)
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "provider_error")
        assert answer.headers["x-should-retry"] == "false"
        assert (await house.document(key.session))["state"] == "active"
        kept = await house.prompt(key)
        assert kept.headers["x-morpheus-session"] == key.session
        assert (await house.simulator.state())["opens_total"] == opened
