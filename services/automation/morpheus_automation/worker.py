"""What automation answers on the bus, and how its parts are put together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from faststream.nats import NatsBroker
from morpheus_common import __version__
from morpheus_common.bus.connection import raw_connection
from morpheus_common.bus.names import User
from morpheus_common.bus.rpc import RpcClient
from morpheus_common.clock import utc_now
from morpheus_common.contracts import automation as contracts
from morpheus_common.contracts.automation import (
    GET_SETTINGS,
    LIST_DECISIONS,
    PLAN_CHAT,
    PUT_SETTINGS,
    AutomationSettings,
    GetSettings,
    ListDecisions,
    Plan,
    PlanChat,
    PutSettings,
)
from morpheus_common.contracts.base import Empty
from morpheus_common.contracts.deletion import ERASE_USER_SETTINGS, EraseUser, UserErased
from morpheus_common.contracts.health import PING, Health
from morpheus_common.service import background
from morpheus_common.standing import Standing
from morpheus_common.store.leases import Leases
from morpheus_common.store.service import store_service
from morpheus_common.store.watch import DatabaseWatch

from morpheus_automation.decisions import Decisions
from morpheus_automation.documents import DOCUMENTS, MIGRATIONS
from morpheus_automation.erasing import Erasing
from morpheus_automation.planning import Planning
from morpheus_automation.preferences import Preferences
from morpheus_automation.renewing import Renewals
from morpheus_automation.settings import AutomationServiceSettings

SERVICE = User.AUTOMATION
CONCURRENT = 64
"""Handlers of one subject that may wait for the database at once; its connection pool has 50."""

LEASE_PASSES = 3
"""For so many passes the lease on renewals lasts."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What the subscribers call."""

    preferences: Preferences
    planning: Planning
    decisions: Decisions
    erasing: Erasing
    watch: DatabaseWatch
    worker: str


def subscribe(broker: NatsBroker, parts: Parts) -> None:
    """Declare the handlers of questions and commands."""

    @broker.subscriber(PING[SERVICE].subject, queue=SERVICE)
    async def ping(_: Empty) -> Health:
        return Health(version=__version__, worker=parts.worker, components={"database": parts.watch.healthy})

    @broker.subscriber(GET_SETTINGS.subject, queue=SERVICE, max_workers=CONCURRENT)
    async def get_settings(question: GetSettings) -> AutomationSettings:
        return await parts.preferences.of(question.user_id)

    @broker.subscriber(PUT_SETTINGS.subject, queue=SERVICE, max_workers=CONCURRENT)
    async def put_settings(command: PutSettings) -> AutomationSettings:
        return await parts.preferences.change(command)

    @broker.subscriber(PLAN_CHAT.subject, queue=SERVICE, max_workers=CONCURRENT)
    async def plan_chat(question: PlanChat) -> Plan:
        return await parts.planning.plan(question)

    @broker.subscriber(LIST_DECISIONS.subject, queue=SERVICE, max_workers=CONCURRENT)
    async def list_decisions(question: ListDecisions) -> contracts.Decisions:
        return await parts.decisions.list(question)

    @broker.subscriber(ERASE_USER_SETTINGS.subject, queue=SERVICE, max_workers=CONCURRENT)
    async def erase_user(command: EraseUser) -> UserErased:
        return UserErased(count=await parts.erasing.erase(command.user_id))


@asynccontextmanager
async def serve(settings: AutomationServiceSettings, standing: Standing | None = None) -> AsyncIterator[None]:
    """Answer questions while the block runs; leaving it drains."""
    async with store_service(settings, SERVICE, DOCUMENTS, standing, MIGRATIONS) as store:
        preferences = Preferences(
            client=store.client,
            default_duration=settings.default_session_duration,
            clock=utc_now,
            staged=store.relay.nudge,
        )
        rpc = RpcClient(raw_connection(store.broker))
        decisions = Decisions(store.client, clock=utc_now, staged=store.relay.nudge)
        renewals = Renewals(
            client=store.client,
            rpc=rpc,
            # its own: a worker that is gone is missed for a few passes
            leases=Leases(store.database, store.holder, seconds=LEASE_PASSES * settings.renewal_seconds),
            preferences=preferences,
            decisions=decisions,
            seconds=settings.renewal_seconds,
            clock=utc_now,
            staged=store.relay.nudge,
        )
        planning = Planning(preferences, decisions, rpc)
        erasing = Erasing(store.client)
        subscribe(store.broker, Parts(preferences, planning, decisions, erasing, store.watch, settings.worker_id))
        async with store.answering():
            async with background(decisions.run(), renewals.run()):
                yield
            await renewals.retire()
        await decisions.flush()
