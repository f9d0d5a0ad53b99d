"""What nats-server refuses: the permissions of production, tried by each user against the server."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable

import nats
import pytest
from morpheus_common.bus.connection import round_trip
from morpheus_common.bus.names import INBOX, User, chat_credit, relay_inbox
from morpheus_common.contracts import REGISTRY
from nats.aio.client import Client
from nats.aio.msg import Msg

from tests.servers import NatsAccount

SERVICES = (User.GATEWAY, User.AUTH, User.SESSIONS, User.AUTOMATION)


class Connection:
    """A user's connection and what the server refused it."""

    def __init__(self) -> None:
        self.client = Client()
        self.refusals: asyncio.Queue[str] = asyncio.Queue()

    async def on_error(self, error: Exception) -> None:
        self.refusals.put_nowait(str(error))

    async def refused(self, attempt: Callable[[], Awaitable[object]]) -> bool:
        """Whether the server refuses what is tried. It answers in order, so a round trip brings its word."""
        await attempt()
        await round_trip(self.client)
        was_refused = not self.refusals.empty()
        while not self.refusals.empty():
            assert "permissions violation" in self.refusals.get_nowait().lower()
        return was_refused

    async def may_subscribe(self, subject: str) -> bool:
        return not await self.refused(lambda: self.client.subscribe(subject))

    async def may_publish(self, subject: str) -> bool:
        return not await self.refused(lambda: self.client.publish(subject, b"x"))


Connect = Callable[[User], Awaitable[Connection]]


@pytest.fixture
async def connect(nats_streams: NatsAccount) -> AsyncIterator[Connect]:
    opened: list[Connection] = []

    async def connect_as(user: User) -> Connection:
        connection = Connection()
        connection.client = await nats.connect(
            nats_streams.url,
            nkeys_seed_str=nats_streams.seeds[user],
            inbox_prefix=INBOX[user],
            error_cb=connection.on_error,
        )
        opened.append(connection)
        return connection

    yield connect_as
    for connection in opened:
        await connection.client.close()


@pytest.mark.parametrize("user", list(User))
async def test_nobody_listens_to_anothers_inbox_or_to_everything(connect: Connect, user: User) -> None:
    connection = await connect(user)

    assert await connection.may_subscribe(f"{INBOX[user]}.>")
    for other in set(User) - {user}:
        assert not await connection.may_subscribe(f"{INBOX[other]}.>")
        assert not await connection.may_subscribe(f"{INBOX[other]}.a.b")
    for everything in (">", "*.>", "_INBOX.>", "$SYS.>", "$JS.>", "*", "rpc.>", "chat.>", "evt.>", "dlq.>"):
        assert not await connection.may_subscribe(everything), everything


@pytest.mark.parametrize("user", list(User))
async def test_a_question_is_asked_by_its_callers_and_heard_by_its_service_and_nobody_else(
    connect: Connect, user: User
) -> None:
    connection = await connect(user)

    for subject, rpc in REGISTRY.rpcs.items():
        assert await connection.may_publish(subject) == (user in rpc.callers), subject
        assert await connection.may_subscribe(subject) == (user is rpc.service), subject


@pytest.mark.parametrize("user", list(User))
async def test_an_event_is_published_by_its_own_service_only(connect: Connect, user: User) -> None:
    connection = await connect(user)

    for subject, event in REGISTRY.events.items():
        assert await connection.may_publish(subject) == (user is event.domain), subject
        assert not await connection.may_subscribe(subject), "events are read through JetStream"


@pytest.mark.parametrize("user", list(User))
async def test_prompts_are_heard_by_session_workers_only_and_sent_by_the_gateway_only(
    connect: Connect, user: User
) -> None:
    connection = await connect(user)

    for kind in ("start.v1", "start.v1.w1", "credit.w1.a1", "body.w1.a1", "cancel.w1.a1"):
        assert await connection.may_subscribe(f"chat.{kind}") == (user is User.SESSIONS), kind
        assert await connection.may_publish(f"chat.{kind}") == (user is User.GATEWAY), kind


@pytest.mark.parametrize("user", list(User))
async def test_answers_go_to_a_gateways_inbox_from_session_workers_only(connect: Connect, user: User) -> None:
    connection = await connect(user)

    for owner, prefix in INBOX.items():
        may = await connection.may_publish(f"{prefix}.g1.a1")
        assert may == (user is User.SESSIONS and owner is User.GATEWAY), prefix


@pytest.mark.parametrize("user", [*SERVICES, User.SUBSCRIBER])
async def test_no_service_changes_streams_or_consumers_of_others(connect: Connect, user: User) -> None:
    connection = await connect(user)

    for verb in ("CREATE", "UPDATE", "DELETE", "PURGE", "MSG.DELETE", "SNAPSHOT"):
        assert not await connection.may_publish(f"$JS.API.STREAM.{verb}.EVENTS"), verb
    assert not await connection.may_publish("$JS.API.CONSUMER.DURABLE.CREATE.EVENTS.spy")
    assert not await connection.may_publish("$JS.API.STREAM.MSG.GET.EVENTS")
    may_fetch = await connection.may_publish("$JS.API.CONSUMER.MSG.NEXT.EVENTS.sessions-keys")
    assert may_fetch == (user is User.SESSIONS), "who fetches another's events takes them away"


@pytest.mark.parametrize("user", [User.AUTH, User.SESSIONS, User.AUTOMATION])
async def test_who_may_answer_a_question_may_write_to_no_inbox_unasked(connect: Connect, user: User) -> None:
    connection = await connect(user)

    assert not await connection.may_publish(f"{INBOX[User.OPS]}.x")
    assert not await connection.may_publish("_INBOX.x")


async def test_a_question_is_answered_across_users_once(connect: Connect) -> None:
    gateway, auth = await connect(User.GATEWAY), await connect(User.AUTH)

    async def answer(msg: Msg) -> None:
        await msg.respond(b"first")
        await msg.respond(b"second")

    await auth.client.subscribe("rpc.auth.ping.v1", cb=answer)
    await round_trip(auth.client)
    reply = await gateway.client.request("rpc.auth.ping.v1", b"", timeout=5)

    assert reply.data == b"first"
    assert "permissions violation" in (await asyncio.wait_for(auth.refusals.get(), 5)).lower()


async def test_a_worker_streams_many_frames_to_the_gateway_that_asked(connect: Connect) -> None:
    gateway, sessions = await connect(User.GATEWAY), await connect(User.SESSIONS)
    inbox = relay_inbox("g1", "a1")
    frames = await gateway.client.subscribe(inbox)

    async def answer(msg: Msg) -> None:
        for number in range(50):
            await sessions.client.publish(msg.reply, str(number).encode())

    await sessions.client.subscribe("chat.start.v1", cb=answer)
    await round_trip(sessions.client)
    await gateway.client.publish("chat.start.v1", b"", reply=inbox)

    assert [int((await frames.next_msg(5)).data) for _ in range(50)] == list(range(50))
    assert await gateway.may_publish(chat_credit("w1", "a1"))


async def test_one_account_hears_nothing_of_another(
    nats_streams: NatsAccount,
    _nats_pool: deque[NatsAccount],  # noqa: PT019 - another of its accounts is wanted
) -> None:
    other = _nats_pool[-1]
    assert other.name != nats_streams.name
    one, two = await nats_streams.connect(User.GATEWAY), await other.connect(User.SESSIONS)
    heard = await one.subscribe("_INBOX_gw.x")
    await round_trip(one)
    await two.publish("_INBOX_gw.x", b"")
    await round_trip(two)
    await round_trip(one)
    assert heard.pending_msgs == 0
    await one.close()
    await two.close()
