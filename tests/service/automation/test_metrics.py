"""What automation measures moves when what it measures happens."""

import pytest
from morpheus_common.bus.rpc import RpcClient
from morpheus_common.contracts.renewal import Renewal, RenewalProgress, RenewSession
from morpheus_common.contracts.sessions import Failure
from morpheus_devstack.waiting import poll

from tests.metrics import Moves, shown
from tests.service.automation.fakes import FakeSessions, near_end
from tests.service.automation.test_decisions import PATIENCE, ask, enable

pytestmark = pytest.mark.usefixtures("worker")


async def at_last(moves: Moves, name: str, count: float, **labels: str) -> None:
    async def moved() -> bool:
        return moves.of(name, **labels) == count

    assert await poll(moved, seconds=PATIENCE)


async def test_decisions_for_prompts_are_counted(gateway: RpcClient, sessions: RpcClient, market: FakeSessions) -> None:
    moves = Moves()
    for _ in range(2):
        await ask(sessions)
    await enable(gateway)
    await ask(sessions)
    await at_last(moves, "morpheus_decisions_total", 2, decision="refuse")
    await at_last(moves, "morpheus_decisions_total", 1, decision="open")
    assert market.pages >= 0


async def test_renewals_and_those_that_failed_are_counted(gateway: RpcClient, market: FakeSessions) -> None:
    moves = Moves()
    await enable(gateway)

    def answer(command: RenewSession) -> Renewal:
        return Renewal(
            progress=RenewalProgress.FAILED,
            operation_id=command.operation_id,
            error=Failure(code="open_failed", message="It failed."),
        )

    market.answer = answer
    market.rows = [near_end()]
    await at_last(moves, "morpheus_renewals_failed_total", 1)
    assert moves.of("morpheus_decisions_total", decision="renew") == 1


async def test_the_age_of_the_last_pass_begins_anew_with_each_and_grows_without(market: FakeSessions) -> None:
    async def made() -> bool:
        return market.pages > 2

    assert await poll(made, seconds=PATIENCE)
    ages = [shown("morpheus_renewal_pass_age_seconds")]

    async def began_anew() -> bool:
        ages.append(shown("morpheus_renewal_pass_age_seconds"))
        return ages[-1] < ages[-2]

    assert await poll(began_anew, seconds=PATIENCE, every=0.01)
    market.rows = None  # type: ignore[assignment]  # an answer that no pass gets over

    async def grown() -> bool:
        return shown("morpheus_renewal_pass_age_seconds") > 0.5

    assert await poll(grown, seconds=PATIENCE, every=0.01)
