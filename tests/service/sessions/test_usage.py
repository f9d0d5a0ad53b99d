"""What prompts used: recorded once each, together, with figures that can be explained, and told of."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
from morpheus_common.bus.frames import Kind
from morpheus_common.bus.names import Stream
from morpheus_common.contracts.automation import Decision
from morpheus_common.contracts.usage import USAGE_RECORDED, UsageRecord, UsageRecorded
from morpheus_sessions.worker import Parts

from tests.faults.wires import MongoWire
from tests.service.common.streams import messages
from tests.service.sessions.house import House, Prompting, until

WORDS = 20
"""Chunks of an answer that was asked for so long: the simulated model sends a word in each."""
TEXT = " ".join(["word"] * WORDS)

Record = dict[str, Any]


async def stored(house: House, **query: Any) -> list[Record]:
    return [item async for item in house.database["usage"].find(query).sort("_id", 1)]


async def written(house: House, parts: Parts, count: int) -> list[Record]:
    """The records, once there are so many; nobody waits for the writer's second."""

    async def found() -> list[Record] | None:
        await parts.usage.write()
        records = await stored(house)
        return records if len(records) >= count else None

    return await until(found)


async def told(house: House, *, at_least: int = 1) -> list[UsageRecord]:
    """The records in published events, once there are so many."""

    async def found() -> list[UsageRecord] | None:
        events = [
            item for item in await messages(house.account, Stream.EVENTS) if item.subject == USAGE_RECORDED.subject
        ]
        records = [record for item in events for record in UsageRecorded.model_validate_json(item.data).records]
        return records if len(records) >= at_least else None

    return await until(found)


def tokens(record: Record) -> tuple[int, int, int, str | None]:
    return record["prompt_tokens"], record["completion_tokens"], record["total_tokens"], record["tokens_from"]


@asynccontextmanager
async def wire(house: House) -> AsyncIterator[tuple[MongoWire, str]]:
    """A wire to the database, and the URL by which a worker uses it."""
    port = urlsplit(house.mongo_url).port
    assert port is not None
    between = MongoWire(port)
    await between.start()
    try:
        yield between, f"mongodb://127.0.0.1:{between.port}/?directConnection=true"
    finally:
        await between.stop()


# what is recorded


async def test_an_answer_in_either_mode_is_recorded_and_told_as_the_provider_counted_it(house: House) -> None:
    """B21, F28."""
    async with house.worker() as parts:
        row = await house.gateway.open()
        before = (await house.database_time()).replace(tzinfo=UTC)
        streamed = await house.gateway.chat(TEXT, stream=True, model_id=None)
        whole = await house.gateway.chat(TEXT, stream=False)
        records = await written(house, parts, 2)
        later = (await house.database_time()).replace(tzinfo=UTC)
        events = await told(house, at_least=2)

    session = await house.only_session()
    assert streamed.text == whole.text
    for record, stream in zip(records, (True, False), strict=True):
        prompt, completion, total, source = tokens(record)
        assert (total, source) == (prompt + completion, "provider")
        assert prompt >= WORDS
        assert completion >= WORDS
        assert before <= record["at"] <= later
        assert record["expires_at"] - later < timedelta(days=90) < record["expires_at"] - before
        assert 0 <= record["queue_ms"] <= record["first_byte_ms"] <= record["total_ms"] < 20_000
        assert (record["user_id"], record["key_id"], record["stream"]) == ("u1", "k1", stream)
        assert (record["model_id"], record["model"]) == (house.gateway.model(), "llama-3.3-70b")
        assert (record["session_id"], record["chain_session"]) == (session["_id"], row.session_id)
        assert (record["provider"], record["endpoint"], record["outcome"]) == (row.provider, "chat/completions", "ok")
    assert tokens(records[0]) == tokens(records[1])
    for event, record in zip(events, records, strict=True):
        kept = {name: value for name, value in record.items() if name not in {"_id", "expires_at"}}
        assert event.model_dump() == {"id": record["_id"], **kept}


async def test_every_end_of_a_prompt_is_recorded_once_and_what_goes_on_elsewhere_is_not(house: House) -> None:
    """B22, C24: the code of its error is the outcome."""
    house.automation.decision = Decision.REFUSE
    async with house.worker(queue_per_key=1) as parts:
        assert (await house.gateway.chat(key="k0")).code == "no_active_session"
        await house.gateway.open()
        await house.gateway.ping()
        expected = ["no_active_session"]
        for action, params, code in (
            ("model_error", {"status": 400, "body": {"error": {"message": "no"}}}, "provider_rejected"),
            ("model_error", {"status": 429, "pass_status": True}, "provider_overloaded"),
            ("truncate", {"at": 3}, "stream_truncated"),
            ("raw_error", {"at": 2, "text": "it broke"}, "provider_error"),
        ):
            await house.simulator.arm("chat", action, **params)
            assert (await house.gateway.chat(TEXT)).code == code
            expected.append(code)
        await house.simulator.arm("chat", "stall")
        async with house.gateway.prompting() as prompting:
            await prompting.accepted()
            await prompting.credit()
            await until(lambda: house.simulator.struck("chat"))
            async with house.gateway.prompting() as waiting:
                await waiting.accepted()
                await waiting.credit()
                assert (await house.gateway.chat()).code == "session_busy"
                await waiting.cancel()
                await until(lambda: is_over(parts, waiting))
            await house.simulator.disarm()
            (await prompting.finish()).assert_whole()
        expected += ["session_busy", "client_gone", "ok"]
        async with house.gateway.prompting() as prompting:
            await prompting.accepted()
            # no credit: another worker may have been given it
            await prompting.cancel()
        await parts.chat.hand_over()
        refused = await house.gateway.chat()
        assert refused.error is not None
        assert refused.error.not_sent
        records = await written(house, parts, len(expected))

    assert [record["outcome"] for record in records] == expected
    by_outcome = {record["outcome"]: record for record in records}
    for outcome in ("no_active_session", "session_busy", "client_gone", "provider_rejected", "provider_overloaded"):
        assert tokens(by_outcome[outcome]) == (0, 0, 0, None), outcome
    assert by_outcome["no_active_session"]["session_id"] is None
    assert by_outcome["no_active_session"]["model_id"] == house.gateway.model()
    assert by_outcome["stream_truncated"]["completion_tokens"] == 3
    assert by_outcome["provider_error"]["completion_tokens"] == 2
    assert by_outcome["stream_truncated"]["tokens_from"] == "estimate"


async def test_a_prompt_whose_session_was_lost_and_opened_again_is_recorded_once_in_the_one_that_answered(
    house: House,
) -> None:
    """B22."""
    async with house.worker() as parts:
        await house.gateway.open()
        await house.simulator.wipe()
        answer = await house.gateway.chat()
        (record,) = await written(house, parts, 1)
    assert answer.head is not None
    assert (record["chain_session"], record["outcome"]) == (answer.head.session_id, "ok")


# disconnects


async def left_at(house: House, parts: Parts, chunk: int, *, stream: bool, already: int) -> Record:
    """A client that leaves when so many chunks of the answer are made."""
    await house.simulator.arm("chat", "stall", at=chunk)
    async with house.gateway.prompting(TEXT, stream=stream, body={"max_tokens": WORDS}) as prompting:
        await prompting.accepted()
        await prompting.credit()
        await until(lambda: house.simulator.struck("chat"))
        if stream:
            await got_chunks(prompting, chunk)
        await prompting.cancel()
        await until(lambda: has_left(parts, prompting))
        await house.simulator.disarm()
        return (await written(house, parts, already + 1))[-1]


async def is_over(parts: Parts, prompting: Prompting) -> bool:
    return parts.chat.prompt(prompting.attempt.id) is None


async def has_left(parts: Parts, prompting: Prompting) -> bool:
    prompt = parts.chat.prompt(prompting.attempt.id)
    return prompt is None or prompt.gone


async def got_chunks(prompting: Prompting, count: int) -> None:
    while prompting.answer.body.count(b"data: ") < count:
        assert (await prompting.next()).kind is Kind.DATA
    assert prompting.answer.body.count(b"data: ") == count


@pytest.mark.parametrize("stream", [True, False])
async def test_who_leaves_at_chunk_k_has_used_what_was_passed_on_until_then(house: House, stream: bool) -> None:
    """C25, B20: for every k of 20. Of a stream its k chunks; a JSON answer is passed on as a whole or not at all."""
    async with house.worker() as parts:
        await house.gateway.open()
        (await house.gateway.chat(TEXT, stream=stream, body={"max_tokens": WORDS})).assert_whole()
        (whole,) = await written(house, parts, 1)
        records = [await left_at(house, parts, k, stream=stream, already=k + 1) for k in range(WORDS)]

    assert whole["completion_tokens"] >= WORDS
    for k, record in enumerate(records):
        assert record["outcome"] == "client_gone"
        completion, source = record["completion_tokens"], record["tokens_from"]
        if stream:
            assert (completion, source) == (k, "estimate" if k else None)
            assert (record["prompt_tokens"] > 0) == (k > 0)
        else:
            assert (completion, source) == (0, "provider")
            assert record["prompt_tokens"] == whole["prompt_tokens"]


# writing


async def test_a_worker_killed_between_writing_and_its_acknowledgement_leaves_each_record_once(house: House) -> None:
    """B22, C24."""
    async with wire(house) as (between, url), house.process(mongo_url=url) as worker:
        await house.gateway.open()
        await until(lambda: nothing_waits(house))
        between.lose_answers(1, matches=lambda command: next(iter(command)) == "commitTransaction")
        await house.gateway.chat()
        await until(lambda: was_lost(between))
        worker.kill()
    async with house.worker("w1"):
        await house.gateway.chat()
        events = await told(house, at_least=2)
        records = await stored(house)

    assert len(records) == 2
    assert sorted(event.id for event in events) == [record["_id"] for record in records]


async def nothing_waits(house: House) -> bool:
    return not await house.database["outbox"].count_documents({"published_at": None})


async def was_lost(between: MongoWire) -> bool:
    return bool(between.lost)


async def test_a_worker_that_ends_writes_what_it_has_of_the_prompt_that_it_cuts_off_too(house: House) -> None:
    """B22."""
    async with AsyncExitStack() as stack:
        async with house.worker(drain_seconds=0.2):
            await house.gateway.open()
            await house.gateway.chat()
            await house.simulator.arm("chat", "stall", at=4)
            prompting = await stack.enter_async_context(house.gateway.prompting(TEXT))
            await prompting.accepted()
            await prompting.credit()
            await got_chunks(prompting, 4)
        await house.simulator.disarm()
    whole, part = await stored(house)
    assert whole["outcome"] == "ok"
    assert (part["outcome"], part["completion_tokens"]) == ("stream_truncated", 4)
