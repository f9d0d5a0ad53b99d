"""An account that is deleted through the whole stack: nobody may use it, nothing of it is at stake, nothing of it is left."""

import signal

from tests.e2e.house import Account, House
from tests.e2e.test_session_endpoints import fault, strikes

COMPLETE_SECONDS = 60.0


def with_sessions(house: House) -> tuple[Account, Account, list[str]]:
    """Make a user with two keys, a session on chain each, and settings."""
    account = house.new_account(automation=True)
    other = house.new_key(account)
    for key in (account, other):
        assert house.chat(key, "hello").status_code == 200
    opened = [house.http.get("session", headers=key.by_key).json()["session_id"] for key in (account, other)]
    return account, other, opened


def is_refused(house: House, account: Account) -> bool:
    by_key = house.http.get("session", headers=account.by_key)
    by_token = house.http.get("auth/keys", headers=account.by_token)
    return (by_key.status_code, by_token.status_code) == (401, 401)


def test_a_deleted_account_is_refused_at_once_and_none_of_its_sessions_is_open_on_chain(house: House) -> None:
    """F9, I6, C5."""
    account, other, opened = with_sessions(house)
    rows = house.http.get("auth/keys", headers=account.by_token).json()
    user_id = rows[0]["user_id"]

    answer = house.http.delete("auth/register", headers=account.by_token)

    assert answer.status_code == 200, answer.text
    assert answer.json()["user_id"] == user_id
    assert answer.json()["deleted_data"] == {
        "sessions": 2,
        "api_keys": 2,
        "private_key": False,
        "automation_settings": True,
        "delegations": 0,
    }
    house.eventually(lambda: is_refused(house, account) and is_refused(house, other), seconds=1.0, what="refusal")
    refused = [
        house.http.delete("auth/register", headers=account.by_token),
        house.http.post("auth/login", json={"email": account.email, "password": account.password}),
        house.http.post("auth/refresh", json={"refresh_token": account.refresh_token}),
    ]
    assert [item.status_code for item in refused] == [401] * 3
    assert all(house.chain_session(session_id)["ClosedAt"] for session_id in opened)

    names = [user_id, account.email, *(row["id"] for row in rows), *(row["key_prefix"] for row in rows)]
    dump = house.dump_databases()
    # events hold ids, and nothing else of a person, for as long as the stream keeps them; what the audit log calls him is
    # forgotten, and the id of a key leads nowhere without them
    key_ids = {row["id"].encode() for row in rows}
    may_stay = {"audit": key_ids, "outbox": {user_id.encode(), *key_ids}}
    for collection, stored in dump.items():
        found = {name for name in map(str.encode, names) if name in stored}
        assert found <= may_stay.get(collection.rpartition(".")[2], set()), collection


def test_a_deletion_that_waits_for_the_chain_is_completed_by_itself_although_its_services_are_killed(
    house: House,
) -> None:
    """K16, F9: the account is gone for its user at once, and for us when its stake is."""
    account, _, opened = with_sessions(house)
    with fault(house, "close", "hang"):
        answer = house.http.delete("auth/register", headers=account.by_token)
        assert answer.status_code == 202, answer.text
        assert is_refused(house, account)
        url = house.stack.gateway_url + answer.json()["status_url"]
        assert house.http.get(url).json()["status"] == "pending"
        assert strikes(house, "close")
        for service in ("auth", "sessions", "automation"):
            house.stack.send(service, signal.SIGKILL)

    def is_complete() -> bool:
        stands = house.http.get(url)
        return stands.status_code == 200 and stands.json()["status"] == "complete"

    house.eventually(is_complete, seconds=COMPLETE_SECONDS, what="complete deletion")
    assert house.http.get(url).json()["deleted_data"]["sessions"] == 2
    assert all(house.chain_session(session_id)["ClosedAt"] for session_id in opened)
