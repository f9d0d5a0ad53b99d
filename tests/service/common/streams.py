"""What is in a stream, as the operator sees it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from morpheus_common.bus.names import User
from nats.aio.client import Client
from nats.aio.msg import Msg

from tests.servers import NatsAccount


@asynccontextmanager
async def _operator(account: NatsAccount) -> AsyncIterator[Client]:
    connection = await account.connect(User.OPS)
    try:
        yield connection
    finally:
        await connection.close()


async def messages(account: NatsAccount, stream: str, *, at_least: int = 0, within: float = 10.0) -> list[Msg]:
    """Everything in a stream, in its order, once there is so much."""
    async with _operator(account) as connection, asyncio.timeout(within):
        jetstream = connection.jetstream()
        while (count := (await jetstream.stream_info(stream)).state.messages) < at_least:  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.02)
        raw = [await jetstream.get_msg(stream, seq) for seq in range(1, count + 1)]
        return [Msg(connection, subject=m.subject or "", data=m.data or b"", headers=m.headers) for m in raw]


async def unacknowledged(account: NatsAccount, stream: str, consumer: str) -> int:
    """How many events of a durable consumer are not done."""
    async with _operator(account) as connection:
        info = await connection.jetstream().consumer_info(stream, consumer)
        return (info.num_ack_pending or 0) + (info.num_pending or 0)
