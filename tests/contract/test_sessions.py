"""Reading and closing sessions (Contract 2.7, 2.8 and 3)."""

import time

import pytest

from tests.contract.shapes import SESSION, hash32, wrong_fields
from tests.contract.target import UNKNOWN_ID, Router, error_of


def test_an_unknown_session_is_500(router: Router) -> None:
    """Contract 2.7: handlers have no 404."""
    response = router.get(f"/blockchain/sessions/{UNKNOWN_ID}")
    assert (response.status_code, error_of(response)) == (500, "session not found")


def test_sessions_of_a_stranger_are_an_empty_list(router: Router) -> None:
    """Contract 0: [], never null."""
    nobody = "0x" + "ab" * 20
    assert router.read("/blockchain/sessions/user", user=nobody) == {"sessions": []}
    assert router.read("/blockchain/sessions/user/ids", user=nobody) == []
    assert router.read("/blockchain/sessions/provider", provider=nobody) == {"sessions": []}


@pytest.mark.spends
def test_sessions_are_listed_newest_first(router: Router) -> None:
    """Contract 2.7: as objects, as ids, for their user and for their provider."""
    first, second = router.open(), router.open()
    wallet = router.wallet()
    listed = router.read("/blockchain/sessions/user", user=wallet)["sessions"]
    assert [session["Id"] for session in listed[:2]] == [second, first]
    assert [wrong_fields(session, SESSION) for session in listed if wrong_fields(session, SESSION)] == []
    opened = [session["OpenedAt"] for session in listed]
    assert opened == sorted(opened, reverse=True)
    assert router.read("/blockchain/sessions/user/ids", user=wallet) == [session["Id"] for session in listed]
    assert router.read("/blockchain/sessions/user", user=wallet, offset=1, limit=1)["sessions"][0]["Id"] == first
    provider = listed[0]["Provider"]
    assert router.read("/blockchain/sessions/provider", provider=provider)["sessions"][0]["Id"] == second
    assert router.session(second) == listed[0]


@pytest.mark.spends
def test_the_oldest_session_is_first_in_ascending_order(router: Router) -> None:
    """Contract 0, pagination: `ASC` in capitals."""
    router.open()
    wallet = router.wallet()
    newest = router.read("/blockchain/sessions/user/ids", user=wallet, limit=1)
    oldest = router.read("/blockchain/sessions/user/ids", user=wallet, limit=1, order="ASC")
    times = [router.session(ids[0])["OpenedAt"] for ids in (oldest, newest)]
    assert times == sorted(times)
    assert router.read("/blockchain/sessions/user/ids", user=wallet, limit=1, order="asc") == newest


@pytest.mark.spends
def test_a_close_is_mined_when_it_is_answered_and_cannot_be_repeated(router: Router) -> None:
    """Contract 2.8: the end of the session stays what it was; a repeat says so in words that mean success."""
    opened = router.open()
    before = router.session(opened)
    response = router.post(f"/blockchain/sessions/{opened}/close")
    assert response.status_code == 200, response.text
    assert list(response.json()) == ["tx"]
    assert hash32(response.json()["tx"])
    closed = router.session(opened)
    assert before["OpenedAt"] <= closed["ClosedAt"] < closed["EndsAt"] == before["EndsAt"]
    assert bytes.fromhex(closed["CloseoutReceipt"])
    assert (closed["Stake"], closed["Id"]) == (before["Stake"], opened)
    again = router.post(f"/blockchain/sessions/{opened}/close")
    assert again.status_code == 500
    assert error_of(again) == (
        "failed to send transaction: close session failed: failed to build transaction: "
        "EVM error: SessionAlreadyClosed() []"
    )
    listed = router.read("/blockchain/sessions/user/ids", user=router.wallet())
    assert opened in listed


@pytest.mark.spends
def test_an_unknown_session_cannot_be_closed(router: Router) -> None:
    """Contract 2.8."""
    response = router.post(f"/blockchain/sessions/{UNKNOWN_ID}/close")
    assert (response.status_code, error_of(response)) == (
        500,
        "failed to get session report from user: session not found",
    )


@pytest.mark.spends
def test_closing_early_returns_the_stake_less_what_the_day_used(router: Router) -> None:
    """Contract 3: seconds used today are held until midnight UTC, the rest comes back at once."""
    before = int(router.read("/blockchain/balance")["mor"])
    opened = router.open()
    assert router.post(f"/blockchain/sessions/{opened}/close").status_code == 200
    session = router.session(opened)
    missing = before - int(router.read("/blockchain/balance")["mor"])
    used = session["ClosedAt"] - session["OpenedAt"]
    length = session["EndsAt"] - session["OpenedAt"]
    assert missing <= session["Stake"] * (used + 1) // length


@pytest.mark.simulator
def test_a_provider_that_is_away_cannot_stop_a_close(controls: Router) -> None:
    """Contract 2.8: the router signs the report itself, and the closeout says so."""
    opened = controls.open()
    controls.control("/sim/providers", {"address": controls.session(opened)["Provider"], "online": False})
    assert controls.post(f"/blockchain/sessions/{opened}/close").status_code == 200
    assert controls.session(opened)["CloseoutType"] == 1


@pytest.mark.simulator
def test_a_session_that_ran_out_is_closed_by_the_router_with_its_whole_stake(controls: Router) -> None:
    """Contract 3: late closes hold nothing back; the router's closer comes every minute. A lost storage does not hinder it
    (Contract 6).
    """
    before = int(controls.read("/blockchain/balance")["mor"])
    opened = controls.open()
    controls.control("/sim/wipe")
    controls.control("/sim/advance", {"seconds": 24 * 3600})
    deadline = time.monotonic() + 20
    while not (session := controls.session(opened))["ClosedAt"]:
        assert time.monotonic() < deadline, "the router did not close it"
    assert session["ClosedAt"] >= session["EndsAt"]
    assert int(controls.read("/blockchain/balance")["mor"]) >= before
