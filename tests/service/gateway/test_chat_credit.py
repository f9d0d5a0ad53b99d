"""Prompts that carry their credit: when they may, and that nobody else gets a prompt that may run."""

import json
import time
from collections.abc import AsyncIterator

import pytest
from morpheus_common.bus.frames import FRAME_BYTES, WINDOW_BYTES, Kind
from morpheus_common.bus.names import User
from morpheus_common.contracts.chat import AnswerHead
from morpheus_gateway.relay import RelayTimes

from tests.servers import NatsAccount
from tests.service.gateway.conftest import House, MakeHouse
from tests.service.gateway.fakes import SESSION_ID, FakePrompt, FakeWorker, chunk, completion, connected, sse

SILENT = RelayTimes(accept=0.2, silence=0.6, credit_repeat=0.1)
ANSWER = json.dumps(completion("done")).encode()
HEAD = AnswerHead(model="Llama 3.3 70B", session_id=SESSION_ID, provider="0xprovider")


async def answer_at_once(prompt: FakePrompt) -> None:
    """A worker that accepts only what came without credit."""
    if not prompt.head.credit:
        await prompt.accept()
    await prompt.complete()
    await prompt.send(Kind.LAST, ANSWER, head=HEAD)


async def ignore(_: FakePrompt) -> None:
    return


async def warm(house: House) -> None:
    """Let the gateway learn which worker has the key's session, and that it is there."""
    house.worker.script = answer_at_once
    assert (await house.chat()).status_code == 200
    assert house.worker.prompts[0].head.credit == 0
    house.worker.prompts.clear()


def credits_at_start(house: House) -> list[int]:
    return [prompt.head.credit for prompt in house.worker.prompts]


async def test_the_next_prompt_of_a_key_carries_its_credit_to_the_worker_that_took_the_last(house: House) -> None:
    await warm(house)
    response = await house.chat()

    assert response.json()["choices"][0]["message"]["content"] == "done"
    assert response.headers["x-morpheus-session"] == SESSION_ID
    assert credits_at_start(house) == [WINDOW_BYTES]
    (prompt,) = house.worker.prompts
    assert prompt.addressed
    assert len(prompt.credits) == 1, "none but that of the start"


async def test_a_stream_may_end_with_its_last_piece(house: House) -> None:
    await warm(house)

    async def stream(prompt: FakePrompt) -> None:
        await prompt.send(Kind.DATA, sse(chunk("a")), head=HEAD)
        await prompt.send(Kind.LAST, sse(chunk(None, finish="stop")) + b"data: [DONE]\n\n")

    house.worker.script = stream
    response = await house.chat(stream=True)
    assert response.content == sse(chunk("a")) + sse(chunk(None, finish="stop")) + b"data: [DONE]\n\n"


async def test_nothing_that_follows_the_last_piece_hides_the_end(make_house: MakeHouse) -> None:
    """B2: an error after `[DONE]` was what a client saw whose answer was whole."""
    house = await make_house(times=SILENT)
    await warm(house)

    async def stream(prompt: FakePrompt) -> None:
        await prompt.send(Kind.DATA, sse(chunk("a")), head=HEAD)
        await prompt.send(Kind.LAST, sse(chunk(None, finish="stop")) + b"data: [DONE]\n\n")
        await prompt.beat()

    house.worker.script = stream
    response = await house.chat(stream=True)
    assert response.content == sse(chunk("a")) + sse(chunk(None, finish="stop")) + b"data: [DONE]\n\n"


async def test_a_caller_whose_check_is_old_gets_no_credit_at_the_start(house: House) -> None:
    """C5: the credit waits for auth's answer, which says here that the key is revoked."""
    await warm(house)
    house.auth.revoke(house.key)
    house.gateway.let_callers_age(1.0)

    assert (await house.chat()).status_code == 401
    prompt = await house.worker.nth(1)
    assert prompt.credits == []


async def test_a_worker_that_was_not_heard_of_lately_gets_no_credit_at_the_start(house: House) -> None:
    await warm(house)
    house.gateway.context.relay.hear(house.worker.name, time.monotonic() - 10)

    assert (await house.chat()).status_code == 200
    assert (await house.chat()).status_code == 200
    assert credits_at_start(house) == [0, WINDOW_BYTES], "its answer is a sign of life"


async def test_a_prompt_that_does_not_fit_in_one_message_gets_no_credit_at_the_start(house: House) -> None:
    await warm(house)
    assert (await house.chat("x" * FRAME_BYTES)).status_code == 200
    assert credits_at_start(house) == [0]


async def test_a_prompt_with_credit_that_nobody_answers_goes_to_nobody_else(make_house: MakeHouse) -> None:
    """B1: it may run. The client is told not to try again."""
    house = await make_house(times=SILENT)
    await warm(house)
    house.worker.script = ignore
    response = await house.chat()

    assert (response.status_code, response.headers["x-should-retry"]) == (503, "false")
    (prompt,) = house.worker.prompts
    await prompt.until(prompt.cancelled.is_set)


async def test_a_prompt_with_credit_is_kept_by_a_worker_that_gives_signs_of_life(make_house: MakeHouse) -> None:
    house = await make_house(times=SILENT)
    await warm(house)

    async def slowly(prompt: FakePrompt) -> None:
        # longer than a worker has to accept, longer than it may be silent
        for repeats in range(2, 11):
            await prompt.credited(repeats)
            await prompt.beat()
        await answer_at_once(prompt)

    house.worker.script = slowly
    assert (await house.chat()).status_code == 200
    assert credits_at_start(house) == [WINDOW_BYTES]


@pytest.fixture
async def house_with_two(house: House, nats_account: NatsAccount) -> AsyncIterator[tuple[House, FakeWorker]]:
    """A house with a warm worker, and another one."""
    async with connected(nats_account.url, nats_account.seeds[User.SESSIONS], User.SESSIONS) as connection:
        await warm(house)
        other = FakeWorker(connection, "w2")
        other.script = answer_at_once
        await other.start()
        yield house, other
        await other.close()


async def test_a_prompt_with_credit_whose_worker_is_gone_is_begun_anew(
    house_with_two: tuple[House, FakeWorker],
) -> None:
    """The server's word that nobody listens is proof that nobody has it."""
    house, other = house_with_two
    await house.worker.stop()

    assert (await house.chat()).status_code == 200
    assert house.worker.prompts == []
    assert [prompt.head.credit for prompt in other.prompts] == [0]


async def test_a_prompt_with_credit_goes_on_to_the_sessions_owner(house_with_two: tuple[House, FakeWorker]) -> None:
    house, other = house_with_two

    async def refer(prompt: FakePrompt) -> None:
        await prompt.owner("w2")

    house.worker.script = refer
    assert (await house.chat()).status_code == 200
    assert credits_at_start(house) == [WINDOW_BYTES]
    assert [(prompt.head.credit, prompt.addressed) for prompt in other.prompts] == [(0, True)]
    attempts = {prompt.head.attempt for prompt in (*house.worker.prompts, *other.prompts)}
    assert len(attempts) == 2


async def test_a_prompt_with_credit_that_was_not_sent_is_begun_anew(house: House) -> None:
    await warm(house)

    async def refuse_once(prompt: FakePrompt) -> None:
        house.worker.script = answer_at_once
        await prompt.error("overloaded", not_sent=True)

    house.worker.script = refuse_once
    assert (await house.chat()).status_code == 200
    assert credits_at_start(house) == [WINDOW_BYTES, 0]


async def test_after_an_error_that_says_nothing_of_not_sent_nobody_gets_the_prompt_again(house: House) -> None:
    await warm(house)

    async def fail(prompt: FakePrompt) -> None:
        await prompt.error("provider_error")

    house.worker.script = fail
    assert (await house.chat()).status_code == 502
    assert len(house.worker.prompts) == 1


async def test_a_worker_that_knows_no_credit_at_the_start_is_given_it(house: House) -> None:
    """A worker of the version before accepts, and waits."""
    await warm(house)

    async def as_before(prompt: FakePrompt) -> None:
        await prompt.accept()
        await prompt.until(lambda: len(prompt.credits) > 1)
        await prompt.data(ANSWER, first=True)
        await prompt.end()

    house.worker.script = as_before
    assert (await house.chat()).status_code == 200
    assert len(house.worker.prompts) == 1
