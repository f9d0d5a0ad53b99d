"""The session endpoints through the whole stack: repeats, operations, quotes, pings, and processes that die meanwhile."""

import contextlib
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from tests.e2e.house import Account, House

RECOVERY_SECONDS = 45.0
"""A killed worker holds its wallet's lease for 15 s more; then whoever takes it looks at the chain."""


def open_session(house: House, account: Account, **headers: str) -> httpx2.Response:
    return house.http.post(
        "session/modelsession",
        params={"model_id": house.llm},
        headers=account.by_key | headers,
        timeout=110,
    )


@contextlib.contextmanager
def fault(house: House, kind: str, action: str, *, count: int | None = 1) -> Iterator[None]:
    """Arm a fault at the router; what it holds goes on when the block is left."""
    env = house.stack.env
    auth = (env["PROXY_ROUTER_USER"], env["PROXY_ROUTER_PASSWORD"])
    path = f"{house.stack.router_url}/sim/faults"
    armed = httpx2.post(path, json={"kind": kind, "action": action, "count": count}, auth=auth)
    assert armed.status_code == 201, armed.text
    try:
        yield
    finally:
        httpx2.delete(path, auth=auth)


def strikes(house: House, kind: str) -> bool:
    return any(item["kind"] == kind for item in house.router("/sim/state")["faults"]["striking"])


def test_a_hundred_parallel_requests_with_one_idempotency_key_open_one_session(house: House) -> None:
    account = house.new_account(automation=False)
    before = house.opens()
    with ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(lambda _: open_session(house, account, **{"Idempotency-Key": "one"}), range(100)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert [answer.headers.get("Idempotent-Replayed") for answer in answers].count(None) == 1
    assert house.opens() - before == 1
    other = house.http.post(
        "session/modelsession",
        params={"model_id": house.llm},
        json={"sessionDuration": 7200},
        headers=account.by_key | {"Idempotency-Key": "one"},
    )
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")


def test_the_quote_is_what_is_locked_and_the_list_shows_it(house: House) -> None:
    account = house.new_account(automation=False)
    quote = house.http.get("session/quote", params={"model_id": house.llm}, headers=account.by_key).json()
    assert quote["affordable"] is True
    row = open_session(house, account).json()
    assert (row["bid_id"], row["provider"]) == (quote["bid_id"], quote["provider"])
    assert 0 <= int(row["stake"]) - int(quote["stake"]) < 2 * 10**9
    assert int(quote["cost"]) == int(quote["price_per_second"]) * quote["duration"]
    shown = house.http.get("session/list", headers=account.by_key).json()
    assert [(item["session_id"], item["state"], item["slot"]) for item in shown] == [
        (row["session_id"], "active", "current")
    ]
    assert shown[0]["automation"] is None


def test_a_ping_is_answered_by_the_provider(house: House) -> None:
    account = house.new_account(automation=True)

    def ping() -> Any:
        return house.http.post("session/pingsession", headers=account.by_key).json()

    assert ping()["status"] == "no_session"
    assert house.chat(account, "hello").status_code == 200
    alive = ping()
    assert (alive["status"], alive["success"]) == ("alive", True)
    assert alive["latency_ms"] >= 0
    current = house.http.get("session", headers=account.by_key).json()
    assert alive["session_id"] == current["session_id"]
    assert current["automation"]["decision"] == "open"


def test_a_close_that_takes_long_is_an_operation_to_be_asked_about(house: House) -> None:
    account = house.new_account(automation=False)
    session_id = open_session(house, account).json()["session_id"]
    with fault(house, "close", "hang"):
        pending = house.http.post("session/closesession", headers=account.by_key)
        assert (pending.status_code, pending.json()["status"]) == (202, "pending")
        assert pending.json()["session_id"] == session_id
        path = pending.headers["Location"].removeprefix("/api/v1/")
        assert path == f"session/operations/{pending.json()['operation_id']}"
        running = house.http.get(path, headers=account.by_key).json()
        assert (running["kind"], running["state"], running["session_id"]) == ("close", "running", session_id)
        assert house.http.get(path, headers=house.new_key(account).by_key).status_code == 404
    house.eventually(
        lambda: house.http.get(path, headers=account.by_key).json()["state"] == "succeeded",
        seconds=20,
        what="closed session",
    )
    assert int(house.chain_session(session_id)["ClosedAt"]) > 0


@pytest.mark.parametrize("service", ["sessions", "gateway"])
def test_a_process_that_dies_while_a_session_opens_costs_no_second_stake(house: House, service: str) -> None:
    account = house.new_account(automation=False)
    before = house.opens()
    again = {"Idempotency-Key": "mine"}
    with ThreadPoolExecutor(1) as pool:
        with fault(house, "open", "hang"):
            opening: Future[httpx2.Response] = pool.submit(open_session, house, account, **again)
            house.eventually(lambda: strikes(house, "open"), seconds=20, what="open at the router")
            killed = house.stack.send(service, signal.SIGKILL)
        if service == "sessions":
            # its caller is told by another, long before its patience is over
            assert opening.result(RECOVERY_SECONDS).status_code == 200
        else:
            with pytest.raises(httpx2.TransportError):
                opening.result(RECOVERY_SECONDS)
    house.eventually(
        lambda: house.stack.folder.pids().get(service) not in {None, killed} and house.is_ready(),
        seconds=RECOVERY_SECONDS,
        what="service",
    )
    repeated = open_session(house, account, **again)
    assert repeated.status_code == 200
    assert repeated.headers["Idempotent-Replayed"] == "true"
    assert repeated.json() == house_view(house, account, repeated.json())
    assert house.opens() - before == 1


def house_view(house: House, account: Account, told: dict[str, Any]) -> dict[str, Any]:
    """What `GET /session` says in the words of an open."""
    current = house.http.get("session", headers=account.by_key).json()
    return {name: current[name] for name in told} | {"message": told["message"]}
