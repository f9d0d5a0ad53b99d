"""The passes over sessions near their end, beside a sessions service that does what it is told."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from morpheus_automation.renewing import LEASE
from morpheus_common.bus.rpc import RpcClient
from morpheus_common.contracts.automation import PUT_SETTINGS, Decision, PutSettings
from morpheus_common.contracts.renewal import Renewal, RenewalProgress, RenewSession
from morpheus_common.contracts.sessions import Failure
from morpheus_common.errors import ApiError
from morpheus_common.store.leases import Holder, Leases
from morpheus_common.store.mongo import Database
from morpheus_devstack.waiting import poll

from tests.service.automation.fakes import A_SECOND, FakeSessions, near_end, plenty
from tests.service.automation.test_decisions import ADA, PATIENCE, decisions, enable

pytestmark = pytest.mark.usefixtures("worker")
PAUSED = {"$gt": ["$not_before", "$$NOW"]}


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    assert await poll(condition, seconds=PATIENCE)


async def passes(market: FakeSessions, more: int = 3) -> None:
    """Wait until so many more passes were made."""
    wanted = market.pages + more

    async def made() -> bool:
        return market.pages >= wanted

    await until(made)


async def record(database: Database, number: int = 1) -> dict[str, Any] | None:
    found: dict[str, Any] | None = await database.get_collection("renewals").find_one({"_id": f"session-{number}"})
    return found


async def at_once(database: Database) -> None:
    """End every pause."""
    await database.get_collection("renewals").update_many({}, {"$set": {"not_before": None}})


async def test_a_session_in_use_is_renewed_for_as_long_as_its_user_chose_and_asked_for_once_while_it_opens(
    gateway: RpcClient, market: FakeSessions
) -> None:
    await enable(gateway, 900)

    def answer(command: RenewSession) -> Renewal:
        market.rows = [near_end(coming=True)]
        return Renewal(progress=RenewalProgress.RUNNING, operation_id=command.operation_id)

    market.answer = answer
    market.rows = [near_end()]
    await passes(market, 5)
    (asked,) = market.asked
    assert (asked.session, asked.key_id, asked.duration) == ("session-1", "key-1", 900)
    assert (asked.word.decision, asked.word.reason) == ("renew", "ends_soon")
    (told,) = await decisions(gateway)
    assert (told.decision, told.operation_id, told.duration) == (Decision.RENEW, asked.operation_id, 900)


async def test_who_has_lost_the_bus_leaves_renewals_to_who_has_it(
    market: FakeSessions, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    leases = Leases(database, Holder("another", 1))
    await passes(market, 1)
    assert await leases.is_held(LEASE)
    monkeypatch.setattr(RpcClient, "is_connected", False)

    async def is_free() -> bool:
        return await leases.acquire(LEASE) is not None

    await until(is_free)


async def test_an_answer_that_got_lost_is_asked_for_again_with_the_same_operation(
    gateway: RpcClient, market: FakeSessions
) -> None:
    await enable(gateway)

    def answer(_: RenewSession) -> Renewal:
        raise ApiError("service_timeout")

    market.answer = answer
    market.rows = [near_end()]
    await passes(market, 5)
    assert len(market.asked) > 1
    assert len({command.operation_id for command in market.asked}) == 1
    (told,) = await decisions(gateway)
    assert told.times == 1
    # who switches automation off meanwhile has nothing opened any more
    await gateway.call(PUT_SETTINGS, PutSettings(user_id=ADA, is_enabled=False))
    await passes(market, 2)
    before = len(market.asked)
    await passes(market, 3)
    assert len(market.asked) == before
    assert (await decisions(gateway))[0].reason == "automation_off"


async def test_a_renewal_that_failed_is_tried_again_after_a_pause_five_times_and_no_more(
    gateway: RpcClient, market: FakeSessions, database: Database
) -> None:
    await enable(gateway)
    error = Failure(code="no_provider_available", message="nobody")
    market.answer = lambda command: Renewal(
        progress=RenewalProgress.FAILED, operation_id=command.operation_id, error=error
    )
    market.rows = [near_end()]
    for failures in range(1, 6):

        async def failed(failures: int = failures) -> bool:
            found = await record(database)
            return found is not None and found["failures"] == failures

        await until(failed)
        assert await database.get_collection("renewals").count_documents({"$expr": PAUSED}) == 1
        before = len(market.asked)
        await passes(market)
        assert len(market.asked) == before
        await at_once(database)
    await passes(market)
    assert len({command.operation_id for command in market.asked}) == len(market.asked) == 5
    told = await decisions(gateway)
    assert [(row.decision, row.reason, row.error) for row in told] == [
        (Decision.LEAVE, "renewal_failed", None),
        (Decision.RENEW, "ends_soon", "no_provider_available"),
    ]
    assert told[1].times == 5


async def test_a_bound_that_leaves_no_room_is_looked_at_again_and_its_refusals_are_counted(
    gateway: RpcClient, market: FakeSessions, database: Database
) -> None:
    """C31"""
    await enable(gateway)
    market.facts = plenty(user_limit=1)
    market.rows = [near_end()]

    async def refused() -> bool:
        rows = await decisions(gateway)
        await at_once(database)
        return bool(rows) and rows[0].times >= 3

    await until(refused)
    assert market.asked == []
    (told,) = await decisions(gateway)
    assert (told.decision, told.reason) == (Decision.REFUSE, "stake_limit_reached")
    # others' sessions have ended meanwhile
    market.facts = plenty(user_limit=500 * A_SECOND)

    async def asked() -> bool:
        await at_once(database)
        return bool(market.asked)

    await until(asked)
    assert market.asked[0].duration == 500


async def test_what_sessions_refuses_is_recorded_by_its_code_and_tried_again_when_it_says(
    gateway: RpcClient, market: FakeSessions, database: Database
) -> None:
    await enable(gateway)

    def answer(_: RenewSession) -> Renewal:
        raise ApiError("session_open_limit", retry_after=40)

    market.answer = answer
    market.rows = [near_end()]

    async def refused() -> bool:
        return bool(await database.get_collection("renewals").count_documents({"refusals": 1, "operation_id": None}))

    await until(refused)
    soon = {"$gt": ["$not_before", {"$dateAdd": {"startDate": "$$NOW", "unit": "second", "amount": 30}}]}
    assert await database.get_collection("renewals").count_documents({"$expr": soon}) == 1
    told = await decisions(gateway)
    assert [(row.decision, row.reason) for row in told] == [
        (Decision.REFUSE, "session_open_limit"),
        (Decision.RENEW, "ends_soon"),
    ]


@pytest.mark.parametrize(("idle", "reason"), [(601.0, "not_used_lately"), (None, "never_used")])
async def test_an_idle_session_is_left_to_run_out_which_is_written_once(
    gateway: RpcClient, market: FakeSessions, idle: float | None, reason: str
) -> None:
    await enable(gateway)
    market.rows = [near_end(idle=idle)]
    await passes(market, 5)
    assert market.asked == []
    (told,) = await decisions(gateway)
    assert (told.decision, told.reason, told.times) == (Decision.LEAVE, reason, 1)
    # used again in time
    market.rows = [near_end(idle=0.0)]
    await passes(market, 3)
    assert len({command.operation_id for command in market.asked}) == 1


async def test_without_automation_sessions_run_out_until_it_is_switched_on(
    gateway: RpcClient, market: FakeSessions
) -> None:
    market.rows = [near_end()]
    await passes(market, 3)
    assert market.asked == []
    (told,) = await decisions(gateway)
    assert (told.decision, told.reason) == (Decision.LEAVE, "automation_off")
    await gateway.call(PUT_SETTINGS, PutSettings(user_id=ADA, is_enabled=True))
    await passes(market, 3)
    assert market.asked


async def test_every_page_is_looked_at_and_what_fails_for_one_session_fails_for_no_other(
    gateway: RpcClient, market: FakeSessions
) -> None:
    users = [f"user-{number}" for number in range(5)]
    for user in users:
        await enable(gateway, user=user)

    def answer(command: RenewSession) -> Renewal:
        if command.session.endswith("7"):
            raise ApiError("invalid_api_key")
        return Renewal(progress=RenewalProgress.RUNNING, operation_id=command.operation_id)

    market.answer = answer
    market.rows = [near_end(number, user_id=users[number % 5]) for number in range(110)]

    async def all_asked() -> bool:
        return len({command.session for command in market.asked}) == 110

    await until(all_asked)
    assert market.pages >= 2
    assert len({(command.session, command.operation_id) for command in market.asked}) == 110
