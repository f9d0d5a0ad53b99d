"""The session worker: its subscribers, and how it is put together, started and drained."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from faststream.nats import NatsBroker
from morpheus_common import __version__
from morpheus_common.bus import names
from morpheus_common.bus.connection import raw_connection
from morpheus_common.bus.durable import read_events
from morpheus_common.bus.names import Header, User
from morpheus_common.bus.rpc import RpcClient
from morpheus_common.bus.topology import CONSUMERS
from morpheus_common.contracts.base import Empty
from morpheus_common.contracts.chat import PromptHead
from morpheus_common.contracts.deletion import (
    CLOSE_USER,
    ERASE_USER_SESSIONS,
    CloseUser,
    EraseUser,
    UserClosing,
    UserErased,
)
from morpheus_common.contracts.health import PING, Health
from morpheus_common.contracts.rated_bids import GET_RATED_BIDS, GetRatedBids, RatedBids
from morpheus_common.contracts.renewal import (
    GET_OPEN_FACTS,
    LIST_ENDING,
    RENEW_SESSION,
    EndingSessions,
    GetOpenFacts,
    ListEnding,
    OpenFacts,
    Renewal,
    RenewSession,
)
from morpheus_common.contracts.sessions import (
    APPROVE_STAKE,
    CATALOGUE,
    CLOSE_SESSION,
    GET_OPERATION,
    GET_SESSION,
    GET_STAKE_AT_RISK,
    LIST_SESSIONS,
    OPEN_SESSION,
    QUOTE_SESSION,
    ApproveOutcome,
    ApproveStake,
    Catalogue,
    CatalogueQuestion,
    CloseResult,
    CloseSession,
    CurrentSession,
    GetOperation,
    GetSession,
    GetStakeAtRisk,
    KeySessions,
    ListKeySessions,
    OpenOutcome,
    OpenSession,
    OperationRow,
    QuoteSession,
    SessionQuote,
    StakeAtRisk,
)
from morpheus_common.contracts.usage import GET_USAGE, GetUsage, UsageReport
from morpheus_common.logs import get_logger
from morpheus_common.service import background
from morpheus_common.standing import Standing
from morpheus_common.store.service import store_service
from morpheus_common.store.watch import DatabaseWatch
from morpheus_common.store.workers import Heartbeat
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from pydantic import ValidationError

from morpheus_sessions.approvals import Approvals
from morpheus_sessions.capital import Capital
from morpheus_sessions.catalogue import CatalogueCopy
from morpheus_sessions.chain_watch import ChainWatch
from morpheus_sessions.chat import Chat
from morpheus_sessions.documents import DOCUMENTS, MIGRATIONS
from morpheus_sessions.erasing import Erasing
from morpheus_sessions.figures import FiguresReader
from morpheus_sessions.fleet import Fleet, Member
from morpheus_sessions.gauges import Gauges, Own, show
from morpheus_sessions.holds import Holds
from morpheus_sessions.intake import Intake
from morpheus_sessions.journal import Journal
from morpheus_sessions.key_watch import KeyWatch, digest_key_event
from morpheus_sessions.left_behind import LeftBehind
from morpheus_sessions.lifecycle import Lifecycle
from morpheus_sessions.limits import Limits
from morpheus_sessions.metrics import FRAMES_REFUSED
from morpheus_sessions.names import StoredNames
from morpheus_sessions.operator import Operator
from morpheus_sessions.operator_rpc import subscribe_operator
from morpheus_sessions.ownership import Ownership
from morpheus_sessions.pinging import Pinging
from morpheus_sessions.prompts import Prompt
from morpheus_sessions.purse import PurseReader
from morpheus_sessions.queueing import Till
from morpheus_sessions.quotes import Quotes
from morpheus_sessions.rated_bids import Ratings, StoredTurns
from morpheus_sessions.release import Release
from morpheus_sessions.renewing import Renewing
from morpheus_sessions.router import Router
from morpheus_sessions.router_watch import RouterWatch
from morpheus_sessions.settings import SessionsSettings
from morpheus_sessions.turn import Turn
from morpheus_sessions.usage_report import UsageReports
from morpheus_sessions.usage_writer import UsageWriter
from morpheus_sessions.wallet import WalletLoop

log = get_logger(__name__)

RPC_WORKERS = 128
"""Handlers that wait for the chain hold their place for up to 100 s."""


RATINGS_AT_ONCE = 64
"""Most of them wait for what another has asked the router for."""
REPORTS_AT_ONCE = 4
"""Each may add up millions of records; what prompts need of the database comes first."""

FIRST_READING_SECONDS = 3.0
"""So long a worker that comes up waits for its first catalogue; a router that is away is no reason not to come up."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What the subscribers call."""

    catalogue: CatalogueCopy
    lifecycle: Lifecycle
    renewing: Renewing
    approvals: Approvals
    erasing: Erasing
    quotes: Quotes
    ratings: Ratings
    chat: Chat
    release: Release
    journal: Journal
    database: DatabaseWatch
    routers: RouterWatch
    capital: Capital
    limits: Limits
    usage: UsageWriter
    usage_reports: UsageReports
    worker: str


def subscribe_rpc(broker: NatsBroker, parts: Parts) -> None:
    """Declare the handlers of questions and commands, one queue group for all session workers."""

    @broker.subscriber(CATALOGUE.subject, queue=User.SESSIONS)
    async def catalogue(question: CatalogueQuestion) -> Catalogue:
        return parts.catalogue.answer(question.have_version, question.part, question.of_version)

    @broker.subscriber(GET_RATED_BIDS.subject, queue=User.SESSIONS, max_workers=RATINGS_AT_ONCE)
    async def get_rated_bids(question: GetRatedBids) -> RatedBids:
        return await parts.ratings.of(question.model_id)

    @broker.subscriber(OPEN_SESSION.subject, queue=User.SESSIONS, max_workers=RPC_WORKERS)
    async def open_session(command: OpenSession) -> OpenOutcome:
        return await parts.lifecycle.answer_open(command)

    @broker.subscriber(CLOSE_SESSION.subject, queue=User.SESSIONS, max_workers=RPC_WORKERS)
    async def close_session(command: CloseSession) -> CloseResult:
        return await parts.lifecycle.close(command)

    @broker.subscriber(APPROVE_STAKE.subject, queue=User.SESSIONS, max_workers=RPC_WORKERS)
    async def approve_stake(command: ApproveStake) -> ApproveOutcome:
        return await parts.approvals.approve(command)

    @broker.subscriber(GET_SESSION.subject, queue=User.SESSIONS, max_workers=RPC_WORKERS)
    async def get_session(question: GetSession) -> CurrentSession:
        return CurrentSession(session=await parts.lifecycle.current(question.key_id))

    @broker.subscriber(LIST_SESSIONS.subject, queue=User.SESSIONS, max_workers=RPC_WORKERS)
    async def list_sessions(question: ListKeySessions) -> KeySessions:
        return await parts.lifecycle.list(question)

    @broker.subscriber(QUOTE_SESSION.subject, queue=User.SESSIONS, max_workers=RPC_WORKERS)
    async def quote_session(question: QuoteSession) -> SessionQuote:
        return await parts.quotes.quote(question)

    @broker.subscriber(GET_STAKE_AT_RISK.subject, queue=User.SESSIONS, max_workers=RPC_WORKERS)
    async def get_stake_at_risk(question: GetStakeAtRisk) -> StakeAtRisk:
        return await parts.limits.standing(question.user_id, await parts.journal.now())

    @broker.subscriber(GET_OPERATION.subject, queue=User.SESSIONS, max_workers=RPC_WORKERS)
    async def get_operation(question: GetOperation) -> OperationRow:
        return await parts.lifecycle.operation(question)

    @broker.subscriber(LIST_ENDING.subject, queue=User.SESSIONS, max_workers=RPC_WORKERS)
    async def list_ending(question: ListEnding) -> EndingSessions:
        return await parts.renewing.ending(question)

    @broker.subscriber(GET_OPEN_FACTS.subject, queue=User.SESSIONS, max_workers=RPC_WORKERS)
    async def get_open_facts(question: GetOpenFacts) -> OpenFacts:
        return await parts.renewing.facts(question)

    @broker.subscriber(RENEW_SESSION.subject, queue=User.SESSIONS, max_workers=RPC_WORKERS)
    async def renew_session(command: RenewSession) -> Renewal:
        return await parts.renewing.renew(command)

    @broker.subscriber(CLOSE_USER.subject, queue=User.SESSIONS, max_workers=RPC_WORKERS)
    async def close_user(command: CloseUser) -> UserClosing:
        return UserClosing(open=await parts.erasing.close_all(command.user_id))

    @broker.subscriber(ERASE_USER_SESSIONS.subject, queue=User.SESSIONS, max_workers=RPC_WORKERS)
    async def erase_user(command: EraseUser) -> UserErased:
        return UserErased(count=await parts.erasing.erase(command.user_id))

    @broker.subscriber(GET_USAGE.subject, queue=User.SESSIONS, max_workers=REPORTS_AT_ONCE)
    async def get_usage(question: GetUsage) -> UsageReport:
        return await parts.usage_reports.report(question)

    @broker.subscriber(PING[User.SESSIONS].subject, queue=User.SESSIONS)
    async def ping(_: Empty) -> Health:
        components = {"database": parts.database.healthy, "proxy_router": parts.routers.healthy}
        degraded = ["proxy_router"] if parts.routers.degraded else []
        return Health(version=__version__, worker=parts.worker, components=components, degraded=degraded)


async def subscribe_chat(connection: Client, parts: Parts) -> list[Subscription]:
    """Listen for prompts and what belongs to them. Raw nats-py: a tenth of FastStream's cost per message (measured)."""
    worker, chat = parts.worker, parts.chat

    async def start(msg: Msg) -> None:
        try:
            head = PromptHead.model_validate_json((msg.headers or {})[Header.HEAD])
        except (KeyError, ValidationError):
            log.warning("prompt without a readable head")
            return
        chat.start(head, msg.reply, msg.data, traceparent=(msg.headers or {}).get(Header.TRACEPARENT))

    def addressed(msg: Msg, frame: str) -> Prompt | None:
        prompt = chat.prompt(_attempt(msg))
        if prompt is None:
            FRAMES_REFUSED.labels(frame).inc()
        return prompt

    async def credit(msg: Msg) -> None:
        prompt = addressed(msg, "credit")
        if prompt is not None and msg.data.isdigit():
            prompt.give_credit(int(msg.data))

    async def body(msg: Msg) -> None:
        prompt = addressed(msg, "body")
        seq = (msg.headers or {}).get(Header.SEQ, "")
        if prompt is not None and seq.isdigit():
            prompt.add_body(msg.data, int(seq))

    async def cancel(msg: Msg) -> None:
        prompt = addressed(msg, "cancel")
        if prompt is not None:
            prompt.leave()

    async def changed(msg: Msg) -> None:
        await parts.release.look_again(_attempt(msg))

    return [
        await connection.subscribe(names.CHAT_START, queue=User.SESSIONS, cb=start),
        await connection.subscribe(names.chat_start_at(worker), cb=start),
        await connection.subscribe(names.chat_credit(worker, "*"), cb=credit),
        await connection.subscribe(names.chat_body(worker, "*"), cb=body),
        await connection.subscribe(names.chat_cancel(worker, "*"), cb=cancel),
        await connection.subscribe(names.session_changed(worker, "*"), cb=changed),
    ]


def _attempt(msg: Msg) -> str:
    return msg.subject.rpartition(".")[2]


@asynccontextmanager
async def serve(settings: SessionsSettings, standing: Standing | None = None) -> AsyncIterator[Parts]:
    """Run a session worker for the length of the block; leaving it drains."""
    async with (
        store_service(settings, User.SESSIONS, DOCUMENTS, standing, MIGRATIONS) as store,
        AsyncExitStack() as stack,
    ):
        routers = {
            item.name: Router(item, read_timeout=settings.router_read_timeout, tells_traces=settings.send_traceparent)
            for item in settings.routers
        }
        for router in routers.values():
            stack.push_async_callback(router.aclose)
        purses = {name: PurseReader(router) for name, router in routers.items()}
        fleet = Fleet(
            Member(router, Till(purses[name], least_gas=settings.least_gas), deployment=settings.deployment_number)
            for name, router in routers.items()
        )
        connection = raw_connection(store.broker)
        jetstream = connection.jetstream()
        heartbeat = Heartbeat(store.database, store.holder)
        holds = Holds(settings.hold_rule, timedelta(seconds=settings.abandoned_at_risk))
        journal = Journal(store.client, store.relay, holds=holds)
        catalogue = CatalogueCopy(
            fleet.reader,
            StoredNames(store.database),
            seconds=settings.catalogue_seconds,
            pinned=settings.pinned_models,
        )
        capital = Capital(list(routers.values()), purses)
        limits = Limits(settings, capital)
        lifecycle = Lifecycle(journal, Intake(store.client, journal, limits), catalogue, fleet.reader, limits)
        ownership = Ownership(store.database, heartbeat, quarantine=settings.quarantine)
        usage = UsageWriter(store.client, kept=timedelta(days=settings.usage_days))
        chat = Chat(
            connection=connection,
            rpc=RpcClient(connection),
            ownership=ownership,
            heartbeat=heartbeat,
            journal=journal,
            lifecycle=lifecycle,
            catalogue=catalogue,
            pinging=Pinging(ownership, journal, catalogue, routers, settings),
            routers=routers,
            usage=usage,
            settings=settings,
        )
        release = Release(store.database, journal, ownership, chat, connection)
        chains = ChainWatch(routers.values(), seconds=settings.gauges_seconds)
        gauges = Gauges(
            Own(
                fleet=fleet,
                chains=chains,
                purses=purses,
                prompts_waiting=lambda: chat.waiting,
                prompts_running=lambda: chat.running,
                sessions_owned=lambda: len(ownership.all()),
            ),
            FiguresReader(store.database, routers=routers, deployment=settings.deployment_number).read,
            limits.in_all,
            seconds=settings.gauges_seconds,
        )
        show(gauges)
        parts = Parts(
            catalogue=catalogue,
            lifecycle=lifecycle,
            renewing=Renewing(
                journal,
                lifecycle,
                catalogue,
                limits,
                running_seconds=settings.first_byte_timeout + settings.answer_timeout,
            ),
            approvals=Approvals(
                store.client, journal, limit=settings.approval_limit, per_minute=settings.approves_per_minute
            ),
            erasing=Erasing(store.client, journal),
            quotes=Quotes(fleet.reader, list(routers.values()), journal, catalogue),
            ratings=Ratings(fleet.reader, catalogue, StoredTurns(store.database, "rated_bids")),
            chat=chat,
            release=release,
            journal=journal,
            database=store.watch,
            routers=RouterWatch(fleet),
            capital=capital,
            limits=limits,
            usage=usage,
            usage_reports=UsageReports(journal),
            worker=settings.worker_id,
        )
        store.standing.need("proxy_router", lambda: parts.routers.healthy)
        left_behind = LeftBehind(fleet, journal, store.leases, seconds=settings.left_behind_seconds)
        keys = KeyWatch(RpcClient(connection), journal, store.leases, seconds=settings.key_check_seconds)
        loops = [
            WalletLoop(
                member,
                fleet,
                journal,
                store.leases,
                catalogue,
                settings,
                Turn(member.router, store.database, store.holder, longest_call=settings.chain_timeout),
                release.is_released,
                limits,
            )
            for member in fleet.members
        ]

        async def revoked(msg: Msg) -> None:
            await digest_key_event(journal, msg.data)

        readers = [
            read_events(jetstream, consumer, revoked) for consumer in CONSUMERS if consumer.service is User.SESSIONS
        ]
        subscribe_rpc(store.broker, parts)
        reconcilers = {router.name: loop.reconciler for router, loop in zip(routers.values(), loops, strict=True)}
        operator = Operator(journal, catalogue, routers, reconcilers, settings, fleet, RpcClient(connection))
        subscribe_operator(store.broker, operator)
        # entered first, left last: questions that wait for the chain are answered while the loops still run
        await stack.enter_async_context(
            background(
                heartbeat.run(),
                parts.routers.run(),
                catalogue.run(),
                capital.run(),
                ownership.write_marks(),
                release.watch(),
                usage.run(),
                chat.beat(),
                chat.release_idle(),
                keys.run(),
                left_behind.run(),
                chains.run(),
                gauges.run(),
                *(loop.run() for loop in loops),
                *readers,
            )
        )
        await catalogue.first_reading(within=FIRST_READING_SECONDS)
        await stack.enter_async_context(store.answering())
        subscriptions = await subscribe_chat(connection, parts)
        yield parts
        await _drain(parts, ownership, subscriptions, settings)


async def _drain(
    parts: Parts, ownership: Ownership, subscriptions: list[Subscription], settings: SessionsSettings
) -> None:
    """Take no new prompts, finish those in line within the grace period, let go of each session as soon as nothing is in line
    for it. Who comes for it until then waits behind the last, and is told that nothing of it was sent.
    """
    anybodys, own, *_ = subscriptions
    await _leave(anybodys)
    await parts.chat.hand_over()
    try:
        async with asyncio.timeout(settings.drain_seconds):
            await parts.chat.drained()
    except TimeoutError:
        log.warning("prompts cut off by the end of the grace period", prompts=len(parts.chat))
        parts.chat.cut_off()
    await parts.usage.drain()
    for owned in ownership.all():
        await ownership.release(owned)
    # from here on the server itself says that nobody listens
    await _leave(own)


async def _leave(subscription: Subscription) -> None:
    try:
        await subscription.drain()  # type: ignore[no-untyped-call]  # nats-py does not annotate it
    except (NatsError, TimeoutError) as error:
        log.warning("subscription not ended in order", problem=type(error).__name__)
