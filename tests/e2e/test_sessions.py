"""Sessions through the whole stack: whose they are, and how many are opened."""

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

from tests.e2e.house import House


def test_two_keys_of_one_user_have_separate_sessions(house: House) -> None:
    """F4"""
    account = house.new_account(automation=True)
    other = house.new_key(account)
    assert house.chat(account, "one").status_code == 200
    assert house.chat(other, "two").status_code == 200
    sessions = [house.http.get("session", headers=key.by_key).json()["session_id"] for key in (account, other)]
    assert None not in sessions
    assert len(set(sessions)) == 2
    # what one key does to its session does not touch the other's
    house.http.post("session/closesession", headers=account.by_key)
    assert house.http.get("session", headers=other.by_key).json()["session_id"] == sessions[1]


def test_twenty_parallel_first_chats_open_one_session_and_each_gets_its_own_answer(house: House) -> None:
    """F1, F2"""
    account = house.new_account(automation=True)
    before = house.opens()
    texts = [f"canary-{number:02d}-{account.key[3:9]}" for number in range(20)]
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda text: house.chat(account, text), texts))
    assert [answer.status_code for answer in answers] == [200] * 20
    for text, answer in zip(texts, answers, strict=True):
        assert text in answer.json()["choices"][0]["message"]["content"]
    assert house.opens() - before == 1
    assert len({answer.headers["x-morpheus-session"] for answer in answers}) == 1


def test_the_stake_on_chain_is_the_one_told_to_the_user(house: House) -> None:
    """F12"""
    account = house.new_account(automation=False)
    row = house.http.post(
        "session/modelsession",
        params={"model_id": house.llm},
        json={"sessionDuration": 600},
        headers=account.by_key,
    ).json()
    on_chain = house.chain_session(row["session_id"])
    assert str(on_chain["Stake"]) == row["stake"]
    # the chain's times, not those of the call
    for told, at in (("opened_at", "OpenedAt"), ("expires_at", "EndsAt")):
        assert datetime.fromisoformat(row[told]).timestamp() == int(on_chain[at])
    # a second wish for the same model is the same session, not another stake
    again = house.http.post("session/modelsession", params={"model_id": house.llm}, headers=account.by_key).json()
    assert again["session_id"] == row["session_id"]


def test_a_model_is_the_same_by_name_by_chain_id_and_by_slug_and_so_is_its_session(house: House) -> None:
    """F8"""
    account = house.new_account(automation=True)
    before = house.opens()
    names = [house.llm, house.llm_id, f"0x{house.llm_id[2:].upper()}", house.llm.replace(".", "-"), house.llm.upper()]
    assert len(set(names)) == 5
    sessions = set()
    for name in names * 2:
        answer = house.chat(account, "hello", model=name)
        assert answer.status_code == 200, name
        sessions.add(answer.headers["x-morpheus-session"])
        asked = house.http.post("session/modelsession", params={"model_id": name}, headers=account.by_key)
        sessions.add(asked.json()["session_id"])
    assert len(sessions) == 1
    assert house.opens() - before == 1
