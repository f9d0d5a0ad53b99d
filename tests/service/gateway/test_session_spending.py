"""POST /session/approve over HTTP."""

import pytest
from morpheus_common.contracts.sessions import APPROVE_STAKE, ApproveOutcome, ApproveStake, Failure
from morpheus_common.errors import ApiError
from morpheus_gateway.commands import PIECE_SECONDS
from morpheus_gateway.errors import REPLAYED_HEADER

from tests.service.gateway.conftest import House, MakeHouse

APPROVE = "/api/v1/session/approve"
TX = "0x" + "cd" * 32


async def answer(house: House, *outcomes: ApproveOutcome) -> None:
    """Let the service answer so, one after the other, the last again and again."""
    left = list(outcomes)

    async def approve(_: ApproveStake) -> ApproveOutcome:
        return left.pop(0) if len(left) > 1 else left[0]

    await house.sessions.answer(APPROVE_STAKE, approve)


def asked(house: House) -> list[ApproveStake]:
    return house.sessions.asked["approve"]


async def test_an_approve_is_answered_with_its_transaction(house: House) -> None:
    await answer(house, ApproveOutcome(operation_id="o1", done=True, tx=TX))
    response = await house.http.post(f"{APPROVE}?amount=36000000000000000", headers=house.by_key)
    assert response.status_code == 200
    assert response.json() == {"tx": TX}
    assert REPLAYED_HEADER not in response.headers
    (command,) = asked(house)
    assert (command.amount, command.wait, command.joins) == (36 * 10**15, PIECE_SECONDS, None)


@pytest.mark.parametrize("amount", ["1", "9" * 78])
async def test_an_amount_of_one_to_seventy_eight_digits_is_passed_on_exactly(house: House, amount: str) -> None:
    await answer(house, ApproveOutcome(operation_id="o1", done=True, tx=None))
    response = await house.http.post(f"{APPROVE}?amount={amount}", headers=house.by_key)
    assert (response.status_code, response.json()) == (200, {"tx": None})
    assert asked(house)[0].amount == int(amount)


NO_AMOUNTS = ["0", "01", "-1", "%2B1", "1.0", "1e18", "0x10", "1%20", "1%0A", "%D9%A1", "9" * 79, "1&amount=2", ""]


@pytest.mark.parametrize("query", ["", *(f"?amount={amount}" for amount in NO_AMOUNTS)])
async def test_anything_else_is_no_amount(house: House, query: str) -> None:
    response = await house.http.post(APPROVE + query, headers=house.by_key)
    assert (response.status_code, response.json()["error"]["code"]) == (422, "validation_error")
    assert house.sessions.asked.get("approve", []) == []


async def test_what_is_over_the_operators_limit_is_refused(house: House) -> None:
    async def refuse(_: ApproveStake) -> ApproveOutcome:
        raise ApiError("approval_limit_reached", param="amount", details={"limit": "5"})

    await house.sessions.answer(APPROVE_STAKE, refuse)
    response = await house.http.post(f"{APPROVE}?amount=6", headers=house.by_key)
    assert response.status_code == 403
    error = response.json()["error"]
    assert (error["code"], error["type"], error["param"]) == ("approval_limit_reached", "permission_error", "amount")
    assert error["details"] == {"limit": "5"}


async def test_what_failed_on_chain_is_told(house: House) -> None:
    failure = Failure(code="approval_failed", message="The allowance could not be raised on chain.")
    await answer(house, ApproveOutcome(operation_id="o1", done=False, error=failure))
    response = await house.http.post(f"{APPROVE}?amount=6", headers=house.by_key)
    assert (response.status_code, response.json()["error"]["code"]) == (502, "approval_failed")


async def test_an_approve_that_is_not_done_in_time_goes_on_under_its_location(make_house: MakeHouse) -> None:
    house = await make_house(open_wait=0.2)
    await answer(house, ApproveOutcome(operation_id="o1", done=False))
    response = await house.http.post(f"{APPROVE}?amount=6", headers=house.by_key)
    assert response.status_code == 504
    assert response.json()["error"]["code"] == "session_pending"
    assert response.json()["error"]["details"] == {"operation_id": "o1"}
    assert response.headers["location"] == "/api/v1/session/operations/o1"


async def test_each_piece_of_the_wait_joins_the_first(house: House) -> None:
    going_on = ApproveOutcome(operation_id="o1", done=False)
    await answer(house, going_on, going_on, ApproveOutcome(operation_id="o1", done=True, tx=TX))
    response = await house.http.post(f"{APPROVE}?amount=6", headers=house.by_key)
    assert response.json() == {"tx": TX}
    assert [command.joins for command in asked(house)] == [None, "o1", "o1"]
    assert len({command.operation_id for command in asked(house)}) == 1


async def test_a_repeat_with_the_same_idempotency_key_says_so(house: House) -> None:
    await answer(house, ApproveOutcome(operation_id="o1", done=True, tx=TX, replayed=True))
    headers = house.by_key | {"Idempotency-Key": "a"}
    response = await house.http.post(f"{APPROVE}?amount=6", headers=headers)
    assert response.headers[REPLAYED_HEADER] == "true"
    assert (await house.http.post(f"{APPROVE}?amount=7", headers=headers)).status_code == 200
    first, second = (command.idempotency for command in asked(house))
    assert first is not None
    assert second is not None
    assert first.digest == second.digest
    assert first.fingerprint != second.fingerprint


async def test_a_repeat_while_the_first_goes_on_is_told_to_come_again(make_house: MakeHouse) -> None:
    house = await make_house(open_wait=0.2)
    await answer(house, ApproveOutcome(operation_id="o1", done=False, replayed=True))
    headers = house.by_key | {"Idempotency-Key": "a"}
    response = await house.http.post(f"{APPROVE}?amount=6", headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (409, "idempotency_in_progress")
    assert response.headers["location"] == "/api/v1/session/operations/o1"


async def test_an_approve_needs_an_api_key_with_the_scope(house: House) -> None:
    assert (await house.http.post(f"{APPROVE}?amount=6")).status_code == 401
    house.key = house.auth.add_key(scopes=["chat"])
    response = await house.http.post(f"{APPROVE}?amount=6", headers=house.by_key)
    assert (response.status_code, response.json()["error"]["code"]) == (403, "insufficient_scope")
