"""Opening: in two steps as the gateway does it, and by bid or model (Contract 2.5, 2.6, 2.6b and 3)."""

import time

import httpx2
import pytest

from tests.contract.shapes import SESSION, address, hash32, wrong_fields
from tests.contract.target import SECONDS, UNKNOWN_ID, Router, error_of

pytestmark = pytest.mark.spends


def failure(response: httpx2.Response) -> str:
    """The text of a 500."""
    assert response.status_code == 500, response.text
    return error_of(response)


def test_the_first_step_gives_an_approval_and_moves_no_money(router: Router) -> None:
    """Contract 2.6b: repeatable; the time is in milliseconds."""
    offer = router.offer("LLM")
    before = router.read("/blockchain/balance")["mor"]
    stake = router.stake(offer)
    agreed = router.initiate(offer, stake)
    assert {"message", "approval", "approvalSig", "user", "timestamp"} <= set(agreed)
    assert address(agreed["user"])
    assert abs(agreed["timestamp"] / 1000 - time.time()) < 86_400
    assert bytes.fromhex(agreed["approval"].removeprefix("0x"))
    assert bytes.fromhex(agreed["approvalSig"].removeprefix("0x"))
    router.initiate(offer, stake)
    assert router.read("/blockchain/balance")["mor"] == before


def test_the_second_step_opens_with_the_stake_to_the_wei(router: Router) -> None:
    """Contract 2.6b: an odd stake is stored exactly and buys no more than the time it was computed for."""
    offer = router.offer("LLM")
    stake = router.stake(offer) + 123_457
    before = int(router.read("/blockchain/balance")["mor"])
    response = router.send_approval(router.initiate(offer, stake), stake)
    assert response.status_code == 200, response.text
    assert list(response.json()) == ["sessionID"]
    session = router.session(response.json()["sessionID"])
    assert wrong_fields(session, SESSION) == {}
    assert session["Stake"] == stake
    assert (session["User"], session["BidID"], session["Provider"]) == (router.wallet(), offer.bid_id, offer.provider)
    assert (session["ModelAgentId"], session["PricePerSecond"]) == (offer.model_id, offer.price)
    assert (session["ClosedAt"], session["CloseoutReceipt"], session["CloseoutType"]) == (0, "", 0)
    assert SECONDS - 1 <= session["EndsAt"] - session["OpenedAt"] <= SECONDS
    assert int(router.read("/blockchain/balance")["mor"]) == before - stake


def test_an_approval_opens_one_session_ever(router: Router) -> None:
    """Contract 2.6b: refused again, with another stake too, and after the session was closed."""
    offer = router.offer("LLM")
    stake = router.stake(offer)
    agreed = router.initiate(offer, stake)
    opened = router.send_approval(agreed, stake)
    assert opened.status_code == 200, opened.text
    assert "SessionDuplicateApproval()" in failure(router.send_approval(agreed, stake))
    assert "SessionDuplicateApproval()" in failure(router.send_approval(agreed, stake + 1))
    assert router.post(f"/blockchain/sessions/{opened.json()['sessionID']}/close").status_code == 200
    assert "SessionDuplicateApproval()" in failure(router.send_approval(agreed, stake))


def test_an_open_tops_up_the_allowance(router: Router) -> None:
    """Contract 3: never less than what is left after the stake; three stakes are enough not to be topped up."""
    offer = router.offer("LLM")
    stake = router.stake(offer)
    spender = router.diamond()
    before = int(router.read("/blockchain/allowance", spender=spender)["allowance"])
    assert router.send_approval(router.initiate(offer, stake), stake).status_code == 200
    after = int(router.read("/blockchain/allowance", spender=spender)["allowance"])
    raised = 0 if before >= 3 * stake else stake
    assert after == (before + raised - stake if before < 2**256 - 1 else before)


@pytest.mark.simulator
def test_three_stakes_are_allowance_enough(controls: Router) -> None:
    """Contract 3: then the open is the only transaction."""
    offer = controls.offer("LLM")
    stake = controls.stake(offer)
    spender = controls.diamond()
    for amount, left in ((3 * stake, 2 * stake), (3 * stake - 1, 3 * stake - 1)):
        assert controls.post("/blockchain/approve", spender=spender, amount=str(amount)).status_code == 200
        assert controls.send_approval(controls.initiate(offer, stake), stake).status_code == 200
        assert controls.read("/blockchain/allowance", spender=spender) == {"allowance": str(left)}


def test_an_approval_of_money_sets_the_allowance(router: Router) -> None:
    """Contract 2.5: sets, does not add; so the router's own figure is put back."""
    spender = router.diamond()
    before = router.read("/blockchain/allowance", spender=spender)["allowance"]
    wanted = str(int(before) + 1)
    for _ in range(2):
        response = router.post("/blockchain/approve", spender=spender, amount=wanted)
        assert response.status_code == 200, response.text
        assert hash32(response.json()["tx"])
        assert router.read("/blockchain/allowance", spender=spender) == {"allowance": wanted}
    assert router.post("/blockchain/approve", spender=spender, amount=before).status_code == 200


def test_a_stake_for_a_minute_is_too_short(router: Router) -> None:
    """Contract 3: 300 seconds at least."""
    offer = router.offer("LLM")
    stake = router.stake(offer, 60)
    assert failure(router.send_approval(router.initiate(offer, stake), stake)) == (
        "failed to send transaction: open session failed: failed to build transaction: EVM error: SessionTooShort() []"
    )


def test_a_stake_above_the_balance_is_refused_first(router: Router) -> None:
    """Contract 2.6b and 3: the transfer of tokens is the contract's first check."""
    offer = router.offer("LLM")
    stake = int(router.read("/blockchain/balance")["mor"]) + 1
    text = failure(router.send_approval(router.initiate(offer, stake), stake))
    assert "transfer amount exceeds balance" in text or "insufficient MOR balance" in text


def test_an_open_by_bid_answers_the_session(router: Router) -> None:
    """Contract 2.6: the stake is the router's own arithmetic; the duration may be a string."""
    offer = router.offer("LLM")
    response = router.post(f"/blockchain/bids/{offer.bid_id}/session", {"sessionDuration": str(SECONDS)})
    assert response.status_code == 200, response.text
    session = router.session(response.json()["sessionID"])
    assert session["BidID"] == offer.bid_id
    assert SECONDS - 1 <= session["EndsAt"] - session["OpenedAt"] <= SECONDS


def test_an_open_by_model_takes_a_rated_bid_and_ignores_failover(router: Router) -> None:
    """Contract 2.6 and 3: `failover` is accepted and without effect."""
    model_id = router.offer("LLM").model_id
    body = {"sessionDuration": SECONDS, "directPayment": False, "failover": True}
    response = router.post(f"/blockchain/models/{model_id}/session", body)
    assert response.status_code == 200, response.text
    rated = router.read(f"/blockchain/models/{model_id}/bids/rated")["bids"]
    assert router.session(response.json()["sessionID"])["BidID"] in {one["Bid"]["Id"] for one in rated}


def test_a_direct_payment_of_an_hour_is_too_short(router: Router) -> None:
    """Contract 3: the contract divides by the ratio of stakes all the same."""
    model_id = router.offer("LLM").model_id
    body = {"sessionDuration": 3600, "directPayment": True}
    assert "SessionTooShort()" in failure(router.post(f"/blockchain/models/{model_id}/session", body))


def test_an_unknown_model_has_no_bids_to_open(router: Router) -> None:
    """Contract 2.6."""
    path = f"/blockchain/models/{UNKNOWN_ID}/session"
    assert failure(router.post(path, {"sessionDuration": SECONDS})) == "no bids available"


@pytest.mark.parametrize("body", [{}, {"sessionDuration": None}])
def test_an_open_without_a_duration_ends_the_connection(router: Router, body: dict[str, None]) -> None:
    """Contract 2.6: the handler panics, and nothing recovers it (Contract 0)."""
    with pytest.raises(httpx2.RemoteProtocolError):
        router.post(f"/blockchain/models/{router.offer('LLM').model_id}/session", body)


@pytest.mark.simulator
def test_a_repeat_with_an_empty_wallet_names_the_balance_although_the_session_exists(controls: Router) -> None:
    """Contract 2.6b: the order of checks masks causes, so no error proves absence."""
    offer = controls.offer("LLM")
    stake = controls.stake(offer)
    agreed = controls.initiate(offer, stake)
    assert controls.send_approval(agreed, stake).status_code == 200
    controls.control("/sim/balance", {"mor": "0"})
    assert "ERC20: transfer amount exceeds balance" in failure(controls.send_approval(agreed, stake))


@pytest.mark.simulator
def test_a_repeat_with_the_bid_deleted_names_the_bid_although_the_session_exists(controls: Router) -> None:
    """Contract 2.6b."""
    offer = controls.offer("LLM")
    stake = controls.stake(offer)
    agreed = controls.initiate(offer, stake)
    assert controls.send_approval(agreed, stake).status_code == 200
    controls.control("/sim/bids", {"id": offer.bid_id, "deleted": True})
    try:
        assert "EVM error: SessionBidNotFound() []" in failure(controls.send_approval(agreed, stake))
    finally:
        controls.control("/sim/bids", {"id": offer.bid_id, "deleted": False})


@pytest.mark.simulator
def test_a_signature_of_somebody_else_is_refused(controls: Router) -> None:
    """Contract 6."""
    offer = controls.offer("LLM")
    stake = controls.stake(offer)
    agreed = controls.initiate(offer, stake)
    agreed["approvalSig"] = "0x" + "11" * 65
    assert "EVM error: SessionProviderSignatureMismatch() []" in failure(controls.send_approval(agreed, stake))


@pytest.mark.simulator
def test_an_approval_has_no_end_of_life(controls: Router) -> None:
    """Contract 2.6b: used a day later. Stakes change at midnight, hence the margin."""
    offer = controls.offer("LLM")
    stake = 2 * controls.stake(offer)
    agreed = controls.initiate(offer, stake)
    controls.control("/sim/advance", {"seconds": 86_400})
    assert controls.send_approval(agreed, stake).status_code == 200


@pytest.mark.simulator
def test_every_provider_that_refuses_is_named_with_its_reason(controls: Router) -> None:
    """Contract 2.6: addresses inside texts are checksummed."""
    model_id = controls.offer("LLM").model_id
    for provider in controls.read("/blockchain/providers")["providers"]:
        controls.control("/sim/providers", {"address": provider["Address"], "online": False})
    text = failure(controls.post(f"/blockchain/models/{model_id}/session", {"sessionDuration": SECONDS}))
    assert text.startswith('no provider accepting session: [{"provider":"0x')
    assert (
        "failed to initiate session: provider request failed: code: 500, msg: <nil>, error: failed to connect" in text
    )
    named = text.split('"provider":"')[1][:42]
    assert named != named.lower()


@pytest.mark.simulator
def test_an_open_goes_on_when_its_caller_hangs_up(controls: Router) -> None:
    """Contract 0, client disconnect: a time-out of the caller cancels nothing, so the outcome is unknown to it."""
    offer = controls.offer("LLM")
    stake = controls.stake(offer)
    agreed = controls.initiate(offer, stake)
    controls.control("/sim/faults", {"kind": "open", "action": "delay", "params": {"seconds": 0.5}})
    body = {"approval": agreed["approval"], "approvalSig": agreed["approvalSig"], "stake": str(stake)}
    with pytest.raises(httpx2.ReadTimeout):
        controls.http.post("/blockchain/sessions", json=body, timeout=0.1)
    deadline = time.monotonic() + 10
    known = set(controls.read("/blockchain/sessions/user/ids", user=controls.wallet(), limit=255))
    while set(controls.read("/blockchain/sessions/user/ids", user=controls.wallet(), limit=255)) == known:
        assert time.monotonic() < deadline, "the open was given up with its caller"
    assert "SessionDuplicateApproval()" in failure(controls.send_approval(agreed, stake))


@pytest.mark.simulator
def test_an_error_can_hide_a_session(controls: Router) -> None:
    """Contract 2.6: a ghost success; the session is found by listing, under the exact stake."""
    offer = controls.offer("LLM")
    stake = controls.stake(offer) + 424_242
    controls.control("/sim/faults", {"kind": "open", "action": "error_after"})
    text = failure(controls.send_approval(controls.initiate(offer, stake), stake))
    assert text == "failed to get session: session not found"
    newest = controls.read("/blockchain/sessions/user", user=controls.wallet(), limit=1)["sessions"][0]
    assert (newest["Stake"], newest["ClosedAt"]) == (stake, 0)
