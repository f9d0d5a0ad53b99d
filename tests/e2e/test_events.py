"""What an internal subscriber sees of a session's life."""

import json

from tests.e2e.house import House


def test_a_session_s_life_is_told_in_order_without_gaps(house: House) -> None:
    account = house.new_account(automation=True)
    assert house.chat(account, "hello").status_code == 200
    house.http.post("session/closesession", headers=account.by_key)

    def life() -> list[tuple[int, str]]:
        mine = [
            (int(headers["ce-sequence"]), headers["ce-type"])
            for headers, body in house.events()
            if headers["ce-type"].startswith("sessions.session.") and json.loads(body)["key_id"] == account.key_id
        ]
        return sorted(mine)

    expected = [
        (1, "sessions.session.requested.v1"),
        (2, "sessions.session.opened.v1"),
        (3, "sessions.session.close_requested.v1"),
        (4, "sessions.session.closed.v1"),
    ]
    house.eventually(lambda: len(life()) >= 4, seconds=10, what="four events")
    assert life() == expected
