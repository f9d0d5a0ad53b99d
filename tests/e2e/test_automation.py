"""What automation decided, as users and operators see it."""

import json
import subprocess

from tests.e2e.house import House
from tests.e2e.stack import MORPHEUS


def test_a_user_a_key_and_an_operator_see_what_was_decided_and_why_and_others_do_not(house: House) -> None:
    account, other = (house.new_account(automation=True) for _ in range(2))
    refusing = house.new_account(automation=False)
    answered = house.chat(account, "hello")
    assert answered.status_code == 200
    assert house.chat(refusing, "hello").status_code == 400

    path = "automation/decisions"
    (opened,) = house.http.get(path, headers=account.by_key).json()
    assert (opened["decision"], opened["reason"], opened["times"]) == ("open", "no_session", 1)
    assert (opened["key_id"], opened["model_id"]) == (account.key_id, house.llm_id)
    assert opened["duration"] == 3_600
    assert int(opened["facts"]["user_limit"]) > 0
    assert house.http.get(path, headers=account.by_token).json() == [opened]
    assert house.http.get(path, headers=other.by_key).json() == []
    assert house.http.get(path, headers=house.new_key(account).by_key).json() == []

    def refused() -> bool:
        return [row["reason"] for row in house.http.get(path, headers=refusing.by_key).json()] == ["automation_off"]

    house.eventually(refused, seconds=10, what="a refusal that is written")
    session = house.http.get("session", headers=account.by_key).json()
    assert session["automation"]["decision"] == "open"
    user = house.http.get("auth/me", headers=account.by_token).json()["id"]
    command = [str(MORPHEUS), "sessions", "decisions", user, "--json", "--data", str(house.stack.folder.path)]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(shown.stdout) == opened
