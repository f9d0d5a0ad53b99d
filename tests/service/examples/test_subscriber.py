"""examples/subscriber.py as its reader runs it: a process of its own, on a real bus with the permissions of production."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from morpheus_common.bus.events import event_headers
from morpheus_common.bus.names import User
from morpheus_common.contracts.auth import KEY_CREATED, KEY_DEACTIVATED, KeyChanged
from morpheus_common.contracts.base import Message
from morpheus_common.contracts.chat import Endpoint
from morpheus_common.contracts.sessions import SESSION_EVENTS, SessionChanged, SessionState, Slot
from morpheus_common.contracts.usage import OK, USAGE_RECORDED, TokensFrom, UsageRecord, UsageRecorded
from morpheus_common.ids import uuid7
from morpheus_devstack.folder import StackFolder

from tests.servers import NatsAccount

SCRIPT = Path(__file__).parents[3] / "examples" / "subscriber.py"
SECONDS = 15
AT = datetime(2026, 11, 20, 10, 30, tzinfo=UTC)
SESSION = "01920000-0000-7000-8000-000000000001"


@dataclass
class Subscriber:
    process: asyncio.subprocess.Process

    async def line(self) -> str:
        assert self.process.stdout is not None
        async with asyncio.timeout(SECONDS):
            return (await self.process.stdout.readline()).decode().rstrip("\n")

    async def said(self) -> str:
        assert self.process.stderr is not None
        async with asyncio.timeout(SECONDS):
            return (await self.process.stderr.readline()).decode().rstrip("\n")

    async def interrupt(self) -> tuple[int | None, str, str]:
        self.process.send_signal(signal.SIGINT)
        async with asyncio.timeout(SECONDS):
            output, errors = await self.process.communicate()
        return self.process.returncode, output.decode(), errors.decode()


@asynccontextmanager
async def started(*options: str, env: Mapping[str, str]) -> AsyncIterator[Subscriber]:
    """Run the script with nothing in its environment but `env`, so that it stands alone."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(SCRIPT),
        *options,
        env={"PATH": os.environ["PATH"], **env},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield Subscriber(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def environment(account: NatsAccount) -> dict[str, str]:
    return {"NATS_URL": account.url, "NATS_SEED": account.seeds[User.SUBSCRIBER]}


async def refused(env: Mapping[str, str], *options: str) -> str:
    async with started(*options, env=env) as subscriber:
        async with asyncio.timeout(SECONDS):
            output, errors = await subscriber.process.communicate()
        assert (subscriber.process.returncode, output) == (1, b"")
        return errors.decode()


class Publisher:
    """Publishes as the outbox of a service does."""

    def __init__(self, account: NatsAccount) -> None:
        self._account = account

    async def session(self, past_tense: str, state: SessionState, version: int) -> None:
        payload = SessionChanged(
            id=SESSION,
            state=state,
            slot=Slot.CURRENT,
            user_id="u1",
            key_id="k1",
            model_id=f"0x{'ab' * 32}",
            bid_id=None,
            provider=None,
            session_id=None,
            stake=None,
            price_per_second=None,
            opened_at=None,
            expires_at=None,
        )
        await self._publish(User.SESSIONS, SESSION_EVENTS[past_tense].subject, payload, SESSION, version)

    async def key(self, key_id: str, *, is_active: bool, version: int) -> None:
        event = KEY_CREATED if is_active else KEY_DEACTIVATED
        payload = KeyChanged(key_id=key_id, user_id="u1", is_active=is_active)
        await self._publish(User.AUTH, event.subject, payload, key_id, version)

    async def usage(self, series: str, count: int) -> None:
        record = UsageRecord(
            id=uuid7(),
            at=AT,
            user_id="u1",
            key_id="k1",
            model_id=None,
            model=None,
            provider=None,
            session_id=None,
            chain_session=None,
            endpoint=Endpoint.CHAT,
            stream=True,
            prompt_tokens=1,
            completion_tokens=2,
            total_tokens=3,
            cached_tokens=None,
            tokens_from=TokensFrom.PROVIDER,
            queue_ms=0,
            first_byte_ms=None,
            total_ms=1,
            outcome=OK,
            request_id="r1",
        )
        await self._publish(User.SESSIONS, USAGE_RECORDED.subject, UsageRecorded(records=[record] * count), series, 1)

    async def _publish(self, user: User, subject: str, payload: Message, entity: str, version: int) -> None:
        headers = event_headers(
            subject,
            event_id=uuid7(),
            entity_id=entity,
            version=version,
            time=AT,
            request_id=None,
            traceparent=None,
        )
        connection = await self._account.connect(user)
        await connection.jetstream().publish(subject, payload.model_dump_json().encode(), headers=headers)
        await connection.close()


async def test_it_prints_events_as_they_come_and_ends_cleanly_on_ctrl_c(nats_streams: NatsAccount) -> None:
    publisher = Publisher(nats_streams)
    async with started(env=environment(nats_streams)) as subscriber:
        assert (await subscriber.said()).startswith("listening to EVENTS")
        await publisher.session("requested", SessionState.OPENING, 1)
        assert await subscriber.line() == (
            f"2026-11-20T10:30:00.000Z  sessions.session.requested.v1        {SESSION}  #1"
            "  state=opening slot=current user_id=u1 key_id=k1 model_id=0xabababab…abab"
        )
        await publisher.session("opened", SessionState.ACTIVE, 2)
        assert "sessions.session.opened.v1" in await subscriber.line()
        await publisher.key("k1", is_active=False, version=2)
        assert "auth.key.deactivated.v1" in await subscriber.line()
        # nothing on stderr but that it stopped: the server refused nothing
        assert await subscriber.interrupt() == (0, "", "stopped\n")


async def test_of_what_prompts_used_it_prints_how_many_records_there_are(nats_streams: NatsAccount) -> None:
    await Publisher(nats_streams).usage("series-1", 3)
    async with started("--since", "all", env=environment(nats_streams)) as subscriber:
        assert (await subscriber.line()).endswith("series-1  #1  records=[3]")


async def test_since_new_leaves_out_what_the_stream_has_kept(nats_streams: NatsAccount) -> None:
    publisher = Publisher(nats_streams)
    await publisher.key("old", is_active=True, version=1)
    async with started("--since", "new", env=environment(nats_streams)) as subscriber:
        await subscriber.said()
        await publisher.key("young", is_active=True, version=1)
        assert " young " in await subscriber.line()


async def test_since_all_begins_with_what_the_stream_has_kept(nats_streams: NatsAccount) -> None:
    publisher = Publisher(nats_streams)
    await publisher.key("old", is_active=True, version=1)
    async with started("--since", "all", env=environment(nats_streams)) as subscriber:
        await subscriber.said()
        await publisher.key("young", is_active=True, version=1)
        assert " old " in await subscriber.line()
        assert " young " in await subscriber.line()


async def test_it_says_when_a_version_comes_again_or_is_missing(nats_streams: NatsAccount) -> None:
    publisher = Publisher(nats_streams)
    async with started(env=environment(nats_streams)) as subscriber:
        await subscriber.said()
        for version in (3, 3, 6, 4, 7):
            await publisher.session("opened", SessionState.ACTIVE, version)
        lines = [await subscriber.line() for _ in range(5)]
    # the first event seen of an entity says nothing about those before it
    assert "[" not in lines[0]
    assert lines[1].endswith("[repeat: version 3 was seen already; ignored]")
    assert lines[2].endswith("[gap: the last version seen was 3]")
    assert lines[3].endswith("[repeat: version 6 was seen already; ignored]")
    assert "[" not in lines[4]


async def test_it_misses_nothing_when_the_server_forgets_its_consumer(nats_streams: NatsAccount) -> None:
    publisher = Publisher(nats_streams)
    async with started(env=environment(nats_streams)) as subscriber:
        await subscriber.said()
        await publisher.key("k1", is_active=True, version=1)
        assert "auth.key.created.v1" in await subscriber.line()
        ops = await nats_streams.connect(User.OPS)
        jetstream = ops.jetstream()
        for consumer in await jetstream.consumers_info("EVENTS"):
            if not consumer.config.durable_name:
                await jetstream.delete_consumer("EVENTS", consumer.name)
        await ops.close()
        await publisher.key("k1", is_active=False, version=2)
        following = await subscriber.line()
        assert "auth.key.deactivated.v1" in following
        assert "[" not in following


async def test_the_folder_of_a_development_stack_says_where_the_bus_is(
    nats_streams: NatsAccount, tmp_path: Path
) -> None:
    StackFolder(tmp_path).write_env(
        {"NATS_URL": nats_streams.url, "NATS_SUBSCRIBER_SEED": nats_streams.seeds[User.SUBSCRIBER]}
    )
    async with started("--data", str(tmp_path), env={}) as subscriber:
        assert (await subscriber.said()).startswith("listening to EVENTS")


async def test_a_bus_without_the_stream_is_one_sentence(nats_account: NatsAccount) -> None:
    assert await refused(environment(nats_account)) == "The bus has no stream EVENTS; `morpheus apply` makes it.\n"


async def test_another_user_s_seed_is_refused_by_the_bus(nats_streams: NatsAccount) -> None:
    env = environment(nats_streams) | {"NATS_SEED": nats_streams.seeds[User.GATEWAY]}
    said = await refused(env)
    assert "permissions violation" in said
    assert said.splitlines()[-1].startswith("The bus does not let this user read EVENTS")
    assert nats_streams.seeds[User.GATEWAY] not in said


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"NATS_SEED": "SU_not_a_seed"}, "NATS_SEED is not the seed of an NKey user"),
        (
            {"NATS_SEED": "SUAHEB53CA7IO2LSGCENWHBMQZJPY3BZYE3F6W6KPJIDYQ56U5EFM2HHQU"},
            "does not know this seed",
        ),
        ({"NATS_URL": "nats://127.0.0.1:1"}, "There is no bus at nats://127.0.0.1:1"),
        ({"NATS_SEED": ""}, "Set NATS_URL and NATS_SEED"),
    ],
)
async def test_what_cannot_work_is_one_sentence(
    nats_account: NatsAccount, changed: dict[str, str], sentence: str
) -> None:
    said = await refused(environment(nats_account) | changed)
    assert sentence in said
    assert said.count("\n") == 1


async def test_a_folder_without_a_stack_is_one_sentence(tmp_path: Path) -> None:
    assert "has `morpheus up` run there?" in await refused({}, "--data", str(tmp_path))
