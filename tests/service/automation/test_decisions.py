"""What automation decides for prompts, and the record of it."""

import asyncio
import json

import pytest
from morpheus_automation.decisions import Decided, Decisions
from morpheus_automation.documents import DecisionDocument
from morpheus_common.bus.names import User
from morpheus_common.bus.rpc import RpcClient
from morpheus_common.clock import utc_now
from morpheus_common.contracts.automation import (
    LIST_DECISIONS,
    PLAN_CHAT,
    PUT_SETTINGS,
    Decision,
    DecisionRow,
    ListDecisions,
    Plan,
    PlanChat,
    PutSettings,
)
from morpheus_common.contracts.deletion import ERASE_USER_SETTINGS, EraseUser
from morpheus_common.errors import ApiError
from morpheus_common.store.mongo import Database
from morpheus_devstack.waiting import poll
from nats.js.api import ConsumerConfig

from tests.servers import NatsAccount
from tests.service.auth.harness import dump
from tests.service.automation.fakes import A_SECOND, MODEL, FakeSessions, plenty

pytestmark = pytest.mark.usefixtures("worker")

ADA, EVE = "user-ada", "user-eve"
PATIENCE = 20.0
PARKED, CURRENT = ("0x" + digit * 64 for digit in "cd")


def prompt(**more: object) -> PlanChat:
    return PlanChat.model_validate(
        {"user_id": ADA, "key_id": "key-1", "key_prefix": "sk-abc", "model_id": MODEL} | more
    )


async def decisions(
    gateway: RpcClient, *, user: str = ADA, key: str | None = None, limit: int = 100
) -> list[DecisionRow]:
    question = ListDecisions(user_id=user, key_id=key, limit=limit)
    return (await gateway.call(LIST_DECISIONS, question)).decisions


async def enable(gateway: RpcClient, duration: int = 900, *, user: str = ADA) -> None:
    change = PutSettings(user_id=user, is_enabled=True, session_duration=duration)
    await gateway.call(PUT_SETTINGS, change)


async def ask(sessions: RpcClient, **more: object) -> Plan:
    return await sessions.call(PLAN_CHAT, prompt(**more))


async def test_a_plan_is_made_of_wish_and_bounds_and_written_down_with_both(
    gateway: RpcClient, sessions: RpcClient, market: FakeSessions
) -> None:
    await enable(gateway)
    market.facts = plenty(user_limit=500 * A_SECOND)
    plan = await ask(sessions)
    assert (plan.decision, plan.duration, plan.shortened_by) == (Decision.OPEN, 500, "stake_limit_reached")
    (told,) = await decisions(gateway)
    assert (told.decision, told.reason, told.duration) == (Decision.OPEN, "no_session", 500)
    assert (told.shortened_by, told.key_id, told.key_prefix, told.model_id) == (
        "stake_limit_reached",
        "key-1",
        "sk-abc",
        MODEL,
    )
    assert told.facts["user_limit"] == str(500 * A_SECOND)
    # what the operator has is not for users
    assert not {"wallet_room", "in_all_room"} & told.facts.keys()


async def test_switches_and_sessions_taken_back_are_decisions_too_and_name_the_session(
    gateway: RpcClient, sessions: RpcClient, market: FakeSessions
) -> None:
    """F3"""
    await enable(gateway)
    switched = await ask(sessions, current=CURRENT)
    resumed = await ask(sessions, current=CURRENT, parked=PARKED)
    assert (switched.decision, resumed.decision, resumed.duration) == (Decision.SWITCH, Decision.RESUME, None)
    assert market.facts_asked == 1

    async def both() -> bool:
        return len(await decisions(gateway)) == 2

    assert await poll(both, seconds=PATIENCE)
    told = await decisions(gateway)
    assert [(row.decision, row.session_id) for row in told] == [(Decision.RESUME, PARKED), (Decision.SWITCH, CURRENT)]


@pytest.mark.parametrize(
    ("bound", "code"),
    [
        ({"user_limit": 1}, "stake_limit_reached"),
        ({"wallet_room": 1}, "insufficient_balance"),
        ({"in_all_room": 1}, "stake_capacity"),
    ],
)
async def test_what_no_bound_leaves_room_for_is_refused_with_the_code_of_the_bound(
    gateway: RpcClient, sessions: RpcClient, market: FakeSessions, bound: dict[str, int], code: str
) -> None:
    """C31"""
    await enable(gateway)
    market.facts = plenty(**bound)
    plan = await ask(sessions)
    assert (plan.decision, plan.code, plan.duration) == (Decision.REFUSE, code, None)


async def test_without_facts_the_wish_stands_and_sessions_enforces_the_limits(
    gateway: RpcClient, sessions: RpcClient, market: FakeSessions
) -> None:
    await enable(gateway)
    market.facts = None
    assert (await ask(sessions)).duration == 900


async def test_a_client_that_hammers_is_counted_and_costs_few_writes(
    gateway: RpcClient, sessions: RpcClient, database: Database, nats_streams: NatsAccount
) -> None:
    connection = await nats_streams.connect(User.SUBSCRIBER)
    events = await connection.jetstream().subscribe(
        "evt.automation.session.>", stream="EVENTS", ordered_consumer=True, config=ConsumerConfig(name="reader")
    )
    for _ in range(3):
        await asyncio.gather(*(ask(sessions) for _ in range(50)))

    async def counted() -> bool:
        rows = await decisions(gateway)
        return bool(rows) and rows[0].times == 150

    assert await poll(counted, seconds=PATIENCE)
    (told,) = await decisions(gateway)
    assert (told.decision, told.reason, told.times) == (Decision.REFUSE, "automation_off", 150)
    assert told.last_at >= told.at
    # one event, of the first
    assert await database.get_collection("outbox").count_documents({}) == 1
    event = await events.next_msg(timeout=5)
    headers = event.headers or {}
    assert (headers["ce-type"], headers["ce-subject"]) == ("automation.session.decided.v1", told.id)
    assert json.loads(event.data) == {
        "id": told.id,
        "user_id": ADA,
        "key_id": "key-1",
        "model_id": MODEL,
        "session_id": None,
        "decision": "refuse",
        "reason": "automation_off",
        "duration": None,
        "operation_id": None,
        "error": None,
    }
    await connection.close()


async def test_a_key_is_told_of_its_own_decisions_and_a_user_of_his_newest_first(
    gateway: RpcClient, sessions: RpcClient
) -> None:
    for user in (ADA, EVE):
        await enable(gateway, user=user)
    for number in range(4):
        await ask(sessions, key_id=f"key-{number % 2}", model_id=f"0x{number:064x}")
    await ask(sessions, user_id=EVE, key_id="key-eve")
    every = await decisions(gateway)
    assert [row.model_id for row in every] == [f"0x{number:064x}" for number in (3, 2, 1, 0)]
    assert {row.key_id for row in await decisions(gateway, key="key-1")} == {"key-1"}
    assert await decisions(gateway, limit=1) == every[:1]
    # a key of another user's is no key of his
    assert await decisions(gateway, key="key-eve") == []


async def test_of_a_deleted_user_nothing_is_kept_and_nothing_is_recorded_any_more(
    gateway: RpcClient, sessions: RpcClient, nats_streams: NatsAccount, database: Database
) -> None:
    await enable(gateway)
    await ask(sessions)
    await database.get_collection("renewals").insert_one({"_id": "session-1", "user_id": ADA})
    connection = await nats_streams.connect(User.AUTH)
    assert (await RpcClient(connection).call(ERASE_USER_SETTINGS, EraseUser(user_id=ADA), timeout=15)).count == 1
    await connection.close()
    assert (await ask(sessions)).decision is Decision.REFUSE
    for name in ("decisions", "renewals"):
        assert await database.get_collection(name).count_documents({"user_id": ADA}) == 0
    client = DecisionDocument.get_pymongo_collection().database.client
    late = Decisions(client, clock=utc_now, staged=lambda: None)
    decided = Decided(ADA, "key-1", "sk-abc", MODEL, Decision.OPEN, "no_session")
    late.count(decided)
    await late.flush()
    with pytest.raises(ApiError, match="invalid_api_key"):
        await late.record(decided)
    await database.get_collection("outbox").delete_many({})
    assert ADA.encode() not in await dump(database)
