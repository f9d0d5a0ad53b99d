"""What may be spent, through the whole stack: the shared allowance, and the limits of a user as a client meets them."""

from pathlib import Path

import httpx2
import pytest

from tests.e2e.house import Account, House
from tests.e2e.stack import running_stack

MOR = 10**18


def approve(house: House, account: Account, amount: int, **headers: str) -> httpx2.Response:
    return house.http.post(
        "session/approve", params={"amount": str(amount)}, headers=account.by_key | headers, timeout=110
    )


def test_an_approve_raises_the_allowance_and_a_smaller_one_does_not_lower_it(house: House) -> None:
    account = house.new_account(automation=False)
    wanted = 100_000 * MOR
    answer = approve(house, account, wanted, **{"Idempotency-Key": "raise"})
    assert answer.status_code == 200, answer.text
    tx = answer.json()["tx"]
    assert int(house.router("/sim/state")["allowance"]) >= wanted
    assert approve(house, account, 1).json() == {"tx": tx}
    assert int(house.router("/sim/state")["allowance"]) >= wanted
    again = approve(house, account, wanted, **{"Idempotency-Key": "raise"})
    assert (again.json(), again.headers["Idempotent-Replayed"]) == ({"tx": tx}, "true")
    refused = approve(house, account, 10**24 + 1)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "approval_limit_reached")


def test_a_user_at_a_limit_is_told_which_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAKE_LIMIT_PER_USER", str(12 * MOR))
    with running_stack(tmp_path / "data", "--fresh") as stack, House.of(stack) as house:
        account = house.new_account(automation=True)
        key = house.http.post("auth/keys", json={"name": "second"}, headers=account.by_token).json()["key"]
        second = {"Authorization": f"Bearer {key}"}
        path = f"session/modelsession?model_id={house.llm}"
        opened = house.http.post(path, headers=account.by_key, timeout=110)
        assert opened.status_code == 200, opened.text

        refused = house.http.post(path, headers=second)
        error = refused.json()["error"]
        assert (refused.status_code, error["code"]) == (403, "stake_limit_reached")
        assert error["details"]["limit"] == str(12 * MOR)
        assert error["details"]["at_risk"] == opened.json()["stake"]
        assert error["details"]["frees_at"] >= opened.json()["expires_at"][:19]
        # a chat that would need a session of its own is told the same
        asked = {"model": house.llm, "messages": [{"role": "user", "content": "hello"}]}
        chat = house.http.post("chat/completions", json=asked, headers=second)
        assert (chat.status_code, chat.json()["error"]["code"]) == (403, "stake_limit_reached")
        assert chat.headers["x-should-retry"] == "false"

        assert house.http.post(path, json={"sessionDuration": 300}, headers=second).status_code == 403
        closed = house.http.post("session/closesession", headers=account.by_key, timeout=60)
        assert closed.status_code == 200
        # on hold until midnight
        assert house.http.post(path, headers=account.by_key).json()["error"]["code"] == "stake_limit_reached"
