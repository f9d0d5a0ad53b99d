"""The subscriber that docs/events.md shows, run as it stands there."""

import asyncio
import os
import sys

from morpheus_common.bus.names import User
from morpheus_common.contracts.sessions import SessionState

from tests.clients.blocks import blocks
from tests.servers import NatsAccount
from tests.service.examples.test_subscriber import SECONDS, SESSION, Publisher


async def test_the_subscriber_of_the_page_prints_each_version_once(nats_streams: NatsAccount) -> None:
    [block] = blocks("events.md", "python")
    publisher = Publisher(nats_streams)
    await publisher.session("requested", SessionState.OPENING, 1)
    await publisher.session("requested", SessionState.OPENING, 1)
    await publisher.session("opened", SessionState.ACTIVE, 2)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        block.text,
        env={
            "PATH": os.environ["PATH"],
            "NATS_URL": nats_streams.url,
            "NATS_SEED": nats_streams.seeds[User.SUBSCRIBER],
        },
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(SECONDS):
            lines = [(await process.stdout.readline()).decode().split() for _ in range(2)]
    finally:
        process.kill()
        await process.wait()
    assert lines == [
        ["sessions.session.requested.v1", SESSION, "opening", "None"],
        ["sessions.session.opened.v1", SESSION, "active", "None"],
    ]
