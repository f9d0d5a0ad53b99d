"""The shared allowance: raised by users and by the wallet's loop, lowered by nobody but the contract."""

import asyncio
from typing import Any

import pytest
from morpheus_common.contracts.sessions import (
    APPROVE_STAKE,
    ApproveOutcome,
    ApproveStake,
    Idempotency,
    OperationKind,
    OperationProgress,
)
from morpheus_common.errors import ApiError
from morpheus_common.ids import uuid7
from morpheus_sessions.queueing import HEAD_START_SECONDS

from tests.service.sessions.house import PATIENCE, House, until

MOR = 10**18
USUAL = 11_400_000_000_000_000_000
FLOAT = 50 * USUAL
KEPT: dict[str, Any] = {"allowance_stakes": 50}
OTHER_CONTRACT = "0x" + "ab" * 20


async def approve(house: House, amount: int, *, key: str = "k1", **more: Any) -> ApproveOutcome:
    command = {"operation_id": uuid7(), "user_id": "u1", "wait": PATIENCE, **more}
    return await house.gateway.rpc.call(
        APPROVE_STAKE, ApproveStake(key_id=key, amount=amount, **command), timeout=PATIENCE + 5
    )


async def allowance(house: House) -> int:
    return int((await house.simulator.state())["allowance"])


async def transactions(house: House) -> int:
    """How many transactions the wallet has made."""
    return int((await house.simulator.state())["nonces"]["mined"])


async def set_by_another(house: House, amount: int) -> None:
    """Have the wallet's owner approve past the gateway."""
    state = await house.simulator.state()
    status, _ = await house.simulator._router.post(f"/blockchain/approve?spender={state['diamond']}&amount={amount}")
    assert status == 200


# users


async def test_an_approve_raises_the_allowance_of_the_routers_contract_and_names_its_transaction(house: House) -> None:
    async with house.worker():
        outcome = await approve(house, 100 * MOR)
        operation = await house.gateway.operation(outcome.operation_id)
    assert (outcome.done, outcome.error, outcome.replayed) == (True, None, False)
    assert outcome.tx is not None
    assert outcome.tx.startswith("0x")
    assert await allowance(house) == 100 * MOR
    assert (operation.kind, operation.state, operation.tx, operation.session_id) == (
        OperationKind.APPROVE,
        OperationProgress.SUCCEEDED,
        outcome.tx,
        None,
    )


async def test_what_is_allowed_already_costs_no_transaction_and_names_the_one_that_allowed_it(house: House) -> None:
    async with house.worker():
        first = await approve(house, 100 * MOR)
        before = await transactions(house)
        for amount in (1, 99 * MOR, 100 * MOR):
            assert (await approve(house, amount, key="k2")).tx == first.tx
        assert await transactions(house) == before
    assert await allowance(house) == 100 * MOR


async def test_an_allowance_that_was_there_before_us_has_no_transaction_of_ours(house: House) -> None:
    await set_by_another(house, 500 * MOR)
    async with house.worker():
        outcome = await approve(house, 7)
    assert (outcome.done, outcome.tx) == (True, None)
    assert await allowance(house) == 500 * MOR


async def test_nobody_approves_more_than_the_operator_allows(house: House) -> None:
    async with house.worker(approval_limit=10 * MOR):
        with pytest.raises(ApiError) as caught:
            await approve(house, 10 * MOR + 1)
        assert (await approve(house, 10 * MOR)).done
    assert caught.value.code == "approval_limit_reached"
    assert caught.value.details == {"limit": str(10 * MOR)}
    assert len(await house.operations()) == 1


async def test_an_approve_of_one_wei_hurts_nobodys_open(house: House) -> None:
    async with house.worker():
        first = [house.gateway.attempt_open(f"k{number}") for number in range(4)]
        ones = [approve(house, 1, key=f"a{number}") for number in range(4)]
        more = [house.gateway.attempt_open(f"m{number}", user="u2") for number in range(4)]
        results = await asyncio.gather(*first, *ones, *more)
    assert [item for item in results if not isinstance(item, ApproveOutcome)] == [None] * 8
    assert all(item.done for item in results if isinstance(item, ApproveOutcome))
    state = await house.simulator.state()
    assert state["open_count"] == 8
    # the float is off: a lowered allowance would have failed the next open
    assert (state["max_concurrent_chain_calls"], state["nonces"]["overlaps"]) == (1, 0)


async def test_parallel_approves_of_the_same_are_one_transaction(house: House) -> None:
    async with house.worker():
        before = await transactions(house)
        outcomes = await asyncio.gather(*(approve(house, 100 * MOR, key=f"k{number}") for number in range(10)))
        assert await transactions(house) == before + 1
    assert all(outcome.done for outcome in outcomes)


async def test_a_flood_of_approves_takes_turns_with_the_opens_of_others(house: House) -> None:
    async with house.worker():
        await house.simulator.arm("approve", "hang", when="before", count=1)
        # each asks for more than all before it: none is spared its transaction
        for number in range(30):
            await approve(house, MOR + number, user_id="u9", wait=0)
        await until(lambda: house.simulator.struck("approve"))
        opening = asyncio.create_task(house.gateway.open("victim", user="u2"))

        async def is_old_in_line() -> bool:
            # what has just come is left to idle wallets for a moment
            earlier = await house.database_time(-HEAD_START_SECONDS * 4)
            return bool(await house.operations(kind="open", queued_at={"$lt": earlier}))

        await until(is_old_in_line)
        await house.simulator.disarm()
        await opening
        before_it = await house.operations(kind="approve", sent_at={"$type": "date"})
    # those in hand when it came, and those whose turns are beside its own; not all thirty
    assert len(before_it) <= 12


async def test_a_user_asks_for_so_many_approves_a_minute_with_whatever_keys(house: House) -> None:
    async with house.worker(approves_per_minute=3):
        asked = await asyncio.gather(
            *(approve(house, MOR + number, key=f"k{number}") for number in range(6)), return_exceptions=True
        )
        refused = [item for item in asked if isinstance(item, ApiError)]
        assert {item.code for item in refused} == {"rate_limit_exceeded"}
        assert all(item.retry_after is not None and 1 <= item.retry_after <= 60 for item in refused)
        assert (await approve(house, MOR, key="k7", user_id="u2")).done
    assert len(refused) == 3
    # what was refused has left nothing
    assert len(await house.operations()) == 4


async def test_a_raise_is_rounded_up_to_whole_floats_so_that_small_steps_cost_nothing(house: House) -> None:
    async with house.worker(**KEPT):
        await until(lambda: _is_over(house, FLOAT))
        before = await allowance(house)
        assert (await approve(house, before + 1)).done
        raised, made = await allowance(house), await transactions(house)
        assert raised > before + FLOAT / 2
        assert (await approve(house, before + 2)).done
        assert (await allowance(house), await transactions(house)) == (raised, made)
    async with house.worker(**KEPT, approval_limit=raised + 5):
        # never past what any user may ask for
        assert (await approve(house, raised + 5)).done
        assert await allowance(house) == raised + 5


async def test_a_repeat_of_an_approve_joins_it(house: House) -> None:
    operation_id = uuid7()
    async with house.worker():
        before = await transactions(house)
        outcomes = await asyncio.gather(*(approve(house, MOR, operation_id=operation_id) for _ in range(4)))
        assert len({outcome.tx for outcome in outcomes}) == 1
        assert await transactions(house) == before + 1
        joined = await approve(house, MOR, joins=operation_id)
        assert joined.operation_id == operation_id
    assert len(await house.operations()) == 1


async def test_an_operation_of_another_key_cannot_be_joined(house: House) -> None:
    async with house.worker():
        outcome = await approve(house, MOR)
        with pytest.raises(ApiError) as caught:
            await approve(house, MOR, key="k2", joins=outcome.operation_id)
    assert caught.value.code == "operation_not_found"


async def test_the_same_idempotency_key_gets_the_first_answer(house: House) -> None:
    wish = Idempotency(digest="a" * 64, fingerprint="b" * 64)
    async with house.worker():
        first = await approve(house, MOR, idempotency=wish)
        await set_by_another(house, 0)
        again = await approve(house, MOR, idempotency=wish)
        assert (again.operation_id, again.tx, again.replayed) == (first.operation_id, first.tx, True)
        assert await allowance(house) == 0
        with pytest.raises(ApiError) as caught:
            await approve(house, 2 * MOR, idempotency=Idempotency(digest="a" * 64, fingerprint="c" * 64))
    assert caught.value.code == "idempotency_key_reused"


async def test_a_revoked_key_approves_nothing(house: House) -> None:
    async with house.worker() as parts:
        await parts.journal.revoke("k1", "u1")
        with pytest.raises(ApiError) as caught:
            await approve(house, MOR)
    assert caught.value.code == "invalid_api_key"
    assert await house.operations() == []


# answers that are lost


@pytest.mark.parametrize("action", ["error_after", "drop"])
async def test_an_approve_whose_answer_is_lost_is_found_in_the_allowance_and_not_sent_again(
    house: House, action: str
) -> None:
    await house.simulator.arm("approve", action, when="after")
    async with house.worker():
        before = await transactions(house)
        outcome = await approve(house, 3 * MOR)
        assert outcome.done
        assert await transactions(house) == before + 1
    assert await allowance(house) == 3 * MOR


async def test_an_approve_that_did_not_happen_is_sent_again_when_the_chain_is_past_it(house: House) -> None:
    await house.simulator.arm("approve", "error_before")
    async with house.worker():
        outcome = await approve(house, 3 * MOR)
    assert outcome.done
    assert await allowance(house) == 3 * MOR
    operation = await house.only_operation()
    assert [fact["what"] for fact in operation["facts"]] == ["approve not clearly answered", "approved"]


async def test_an_approve_that_takes_too_long_for_its_caller_goes_on(house: House) -> None:
    await house.simulator.arm("approve", "hang")
    async with house.worker():
        pending = await approve(house, MOR, wait=0.3)
        assert (pending.done, pending.error, pending.tx) == (False, None, None)
        await house.simulator.disarm()
        assert (await approve(house, MOR, joins=pending.operation_id)).done


async def test_an_approve_that_never_happens_is_given_up(house: House) -> None:
    await house.simulator.arm("approve", "error_before", count=None)
    async with house.worker(abandon_after=0.5):
        outcome = await approve(house, MOR)
        assert outcome.error is not None
        assert outcome.error.code == "approval_failed"
    assert (await house.only_operation())["state"] == "abandoned"


async def test_an_approve_outlives_the_worker_that_sent_it(house: House) -> None:
    await house.simulator.arm("approve", "hang")
    async with house.process("w1", lease_seconds=1.0) as process:
        pending = await approve(house, MOR, wait=0.1)
        await until(lambda: house.simulator.struck("approve"))
        process.kill()
        await house.simulator.disarm()
    async with house.worker("w2", lease_seconds=1.0):
        assert (await approve(house, MOR, joins=pending.operation_id)).done
    assert await allowance(house) == MOR


async def test_a_node_that_lags_behind_our_last_approval_lowers_nothing(house: House) -> None:
    async with house.worker():
        assert (await approve(house, 100 * MOR)).done
        await house.simulator.post("/sim/lag", {"blocks": 200})
        pending = await approve(house, 5 * MOR, wait=0.5)
        assert not pending.done
        await house.simulator.post("/sim/lag", {"blocks": 0})
        assert (await approve(house, 5 * MOR, joins=pending.operation_id)).done
    assert await allowance(house) == 100 * MOR


async def test_nothing_is_approved_for_a_contract_that_is_not_the_routers(house: House) -> None:
    async with house.worker(diamond_contract_address=OTHER_CONTRACT):
        outcome = await approve(house, MOR)
        assert outcome.error is not None
        assert outcome.error.code == "approval_failed"
    assert await allowance(house) == 0


# the float


async def test_the_loop_keeps_the_allowance_over_fifty_usual_stakes_so_that_an_open_is_one_transaction(
    house: House,
) -> None:
    async with house.worker(**KEPT):
        await until(lambda: _is_over(house, FLOAT))
        before = await transactions(house)
        await house.gateway.open()
        assert await transactions(house) == before + 1
        assert await allowance(house) >= FLOAT

        await set_by_another(house, 1)
        await until(lambda: _is_over(house, FLOAT))
    state = await house.simulator.state()
    assert (state["nonces"]["overlaps"], state["max_concurrent_chain_calls"]) == (0, 1)
    assert await house.operations(kind="approve") == []


async def _is_over(house: House, amount: int) -> bool:
    return await allowance(house) >= amount


async def test_an_approve_sets_no_less_than_the_float(house: House) -> None:
    async with house.worker(**KEPT):
        await set_by_another(house, 0)
        assert (await approve(house, 1)).done
        assert await allowance(house) >= FLOAT


async def test_a_float_that_cannot_be_raised_is_tried_again_and_stops_no_open(house: House) -> None:
    await house.simulator.arm("approve", "error_before", count=2)
    async with house.worker(**KEPT):
        assert await house.gateway.attempt_open() is None
        await until(lambda: _is_over(house, FLOAT))
