"""Events read through a durable consumer: tried again, then set aside with the reason."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from morpheus_common.bus import durable
from morpheus_common.bus.durable import read_events
from morpheus_common.bus.names import Header, Stream, User
from morpheus_common.bus.topology import CONSUMERS
from morpheus_common.request_context import request_id
from nats.aio.client import Client
from nats.aio.msg import Msg

from tests.servers import NatsAccount
from tests.service.common.streams import messages, unacknowledged
from tests.service.common.waiting import until

(KEYS,) = [consumer for consumer in CONSUMERS if consumer.service is User.SESSIONS]
SUBJECT = KEYS.filters[0]


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "PAUSE_SECONDS", 0.02)


@pytest.fixture
async def auth(nats_streams: NatsAccount) -> AsyncIterator[Client]:
    connection = await nats_streams.connect(User.AUTH)
    yield connection
    await connection.close()


@asynccontextmanager
async def reading(account: NatsAccount, handle: Callable[[Msg], Awaitable[None]]) -> AsyncIterator[None]:
    connection = await account.connect(User.SESSIONS)
    task = asyncio.create_task(read_events(connection.jetstream(), KEYS, handle))
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await connection.close()


async def publish(auth: Client, data: bytes, **headers: str) -> None:
    await auth.jetstream().publish(SUBJECT, data, headers={Header.MESSAGE_ID: data.decode(), **headers})


async def dead_letters(account: NatsAccount) -> list[Msg]:
    return await messages(account, Stream.DLQ)


async def left(account: NatsAccount) -> int:
    return await unacknowledged(account, Stream.EVENTS, KEYS.name)


async def test_events_published_before_and_after_the_reader_came_are_handled_in_order(
    nats_streams: NatsAccount, auth: Client
) -> None:
    seen: list[tuple[bytes, str | None]] = []

    async def handle(msg: Msg) -> None:
        seen.append((msg.data, request_id.get()))

    await publish(auth, b"1", **{Header.REQUEST_ID: "r1"})
    async with reading(nats_streams, handle):
        await publish(auth, b"2")

        async def both() -> bool:
            return len(seen) == 2 and not await left(nats_streams)

        await until(both)
    assert seen == [(b"1", "r1"), (b"2", None)]
    assert await dead_letters(nats_streams) == []


async def test_an_event_that_fails_comes_again_and_is_done_when_it_works(
    nats_streams: NatsAccount, auth: Client
) -> None:
    tries = 0

    async def handle(_: Msg) -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise LookupError

    await publish(auth, b"1")
    async with reading(nats_streams, handle):

        async def done() -> bool:
            return tries == 3 and not await left(nats_streams)

        await until(done)
    assert await dead_letters(nats_streams) == []


async def test_an_event_nobody_can_digest_is_set_aside_with_its_reason_and_the_next_is_handled(
    nats_streams: NatsAccount, auth: Client
) -> None:
    """C48: after so many deliveries it is a dead letter; an alert comes with metrics."""
    seen: list[bytes] = []

    async def handle(msg: Msg) -> None:
        seen.append(msg.data)
        if msg.data == b"poison":
            raise LookupError("with a detail that stays here")

    await publish(auth, b"poison", **{"ce-id": "e1"})
    await publish(auth, b"fine")
    async with reading(nats_streams, handle):

        async def set_aside() -> bool:
            return len(await dead_letters(nats_streams)) == 1 and not await left(nats_streams)

        await until(set_aside)
    (letter,) = await dead_letters(nats_streams)
    assert seen.count(b"poison") == KEYS.max_deliver
    assert seen.count(b"fine") == 1
    assert (letter.subject, letter.data) == (f"dlq.{SUBJECT}", b"poison")
    assert (letter.headers or {})["ce-id"] == "e1"
    reason = json.loads((letter.headers or {})[Header.REASON])
    assert reason == {"consumer": KEYS.name, "reason": "LookupError", "deliveries": KEYS.max_deliver}


async def test_an_event_whose_reader_left_in_the_middle_comes_to_the_next(
    nats_streams: NatsAccount, auth: Client
) -> None:
    started = asyncio.Event()
    seen: list[bytes] = []

    async def never(_: Msg) -> None:
        started.set()
        await asyncio.Event().wait()

    async def handle(msg: Msg) -> None:
        seen.append(msg.data)

    async with reading(nats_streams, handle):
        await publish(auth, b"before")

        async def before() -> bool:
            return seen == [b"before"]

        await until(before)
    async with reading(nats_streams, never):
        await publish(auth, b"held")
        await asyncio.wait_for(started.wait(), 10)
    assert await left(nats_streams) == 1
    assert await dead_letters(nats_streams) == []
