"""A service killed without warning: clear words meanwhile, and everything works when it is back."""

import signal

import httpx2
import pytest

from tests.e2e.house import House


@pytest.mark.parametrize("service", ["auth", "automation", "sessions", "gateway"])
def test_a_killed_service_comes_back_and_errors_meanwhile_are_in_openai_s_form(house: House, service: str) -> None:
    account = house.new_account(automation=True)
    fresh = house.new_key(account)
    assert house.chat(account, "before").status_code == 200
    before = house.stack.send(service, signal.SIGKILL)
    answers = []
    for number in range(40):
        # the first prompt of a key needs every service; that of a warm one only some
        try:
            answers.append(house.chat(fresh if number % 2 else account, f"meanwhile {number}"))
        except httpx2.TransportError:
            assert service == "gateway", "only a dead gateway drops connections"
        if house.stack.folder.pids().get(service) not in {None, before} and house.is_ready():
            break
    house.eventually(
        lambda: house.stack.folder.pids().get(service) not in {None, before}, seconds=20, what=f"new {service}"
    )
    house.eventually(house.is_ready, seconds=20, what="readiness")
    for answer in answers:
        if answer.status_code != 200:
            error = answer.json()["error"]
            assert answer.status_code in {503, 504}, error
            assert error["type"] == "server_error"
            assert error["message"]
            assert answer.headers["x-request-id"]
    for key in (account, fresh):
        after = house.chat(key, "after")
        assert after.status_code == 200, after.text
