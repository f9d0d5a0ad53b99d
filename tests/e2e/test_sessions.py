"""Sessions through the whole stack: whose they are, and how many are opened."""

from concurrent.futures import ThreadPoolExecutor

from tests.e2e.house import House


def test_two_keys_of_one_user_have_separate_sessions(house: House) -> None:
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
    account = house.new_account(automation=False)
    row = house.http.post(
        "session/modelsession",
        params={"model_id": house.llm},
        json={"sessionDuration": 600},
        headers=account.by_key,
    ).json()
    on_chain = house.chain_session(row["session_id"])
    assert str(on_chain["Stake"]) == row["stake"]
    # a second wish for the same model is the same session, not another stake
    again = house.http.post("session/modelsession", params={"model_id": house.llm}, headers=account.by_key).json()
    assert again["session_id"] == row["session_id"]
