"""Secrets of a full run are nowhere in clear: not in a log, a database, the event stream or a message on the bus."""

from tests.e2e.house import House


def test_no_secret_of_a_run_is_found_in_clear(house: House) -> None:
    with house.bus_capture() as captured:
        account = house.new_account(automation=True)
        tokens = house.http.post("auth/refresh", json={"refresh_token": account.refresh_token}).json()
        assert house.chat(account, "hello").status_code == 200
    planted = {
        "password": account.password,
        "api key": account.key,
        "the secret half of the key": account.key.partition(".")[2],
        "refresh token": account.refresh_token,
        "its successor": tokens["refresh_token"],
        "access token": account.by_token["Authorization"].partition(" ")[2],
    }
    places = {"bus": b"".join(captured), **house.logs(), **house.dump_databases()}
    assert len(captured) > 20, "the capture saw the traffic"
    found = [
        f"{what} in {place}"
        for place, content in places.items()
        for what, secret in planted.items()
        if secret.encode() in content
    ]
    assert found == []
