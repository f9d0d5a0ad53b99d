"""A service killed without warning: clear words meanwhile, and everything works when it is back."""

import signal

import httpx2
import pytest

from tests.e2e.house import House

BACK_SECONDS = 20.0


@pytest.mark.parametrize("service", ["auth", "automation", "sessions", "gateway"])
def test_a_killed_service_comes_back_and_errors_meanwhile_are_in_openai_s_form(house: House, service: str) -> None:
    account = house.new_account(automation=True)
    fresh = house.new_key(account)
    assert house.chat(account, "before").status_code == 200
    before = house.stack.send(service, signal.SIGKILL)
    meanwhile: list[httpx2.Response] = []

    def is_answered(key: str) -> bool:
        # the first prompt of a key needs every service; that of a warm one only some
        try:
            answer = house.chat(fresh if key == "fresh" else account, f"after {service}")
        except httpx2.TransportError:
            assert service == "gateway", "only a dead gateway drops connections"
            return False
        meanwhile.append(answer)
        return answer.status_code == 200

    house.eventually(lambda: is_answered("warm"), seconds=BACK_SECONDS, what="answer on a warm key")
    house.eventually(lambda: is_answered("fresh"), seconds=BACK_SECONDS, what="answer on a fresh key")
    house.eventually(
        lambda: house.stack.folder.pids().get(service) not in {None, before}, seconds=BACK_SECONDS, what="new process"
    )
    for answer in meanwhile:
        if answer.status_code != 200:
            error = answer.json()["error"]
            assert answer.status_code in {503, 504}, error
            assert error["type"] == "server_error"
            assert error["message"]
            assert answer.headers["x-request-id"]
            assert answer.headers["x-should-retry"] in {"true", "false"}


def test_a_bus_that_freezes_and_thaws_breaks_nothing(house: House) -> None:
    account = house.new_account(automation=True)
    assert house.chat(account, "before").status_code == 200

    def bus_is(state: str) -> bool:
        health = house.http.get(house.stack.gateway_url + "/health").json()
        return bool(health["components"]["bus"]["status"] == state)

    house.stack.send("nats-server", signal.SIGSTOP)
    try:
        house.eventually(lambda: bus_is("unhealthy"), seconds=BACK_SECONDS, what="notice of the frozen bus")
        assert house.chat(account, "meanwhile").status_code in {503, 504}
    finally:
        house.stack.send("nats-server", signal.SIGCONT)
    house.eventually(lambda: house.chat(account, "after").status_code == 200, seconds=BACK_SECONDS, what="answer")
    house.eventually(lambda: bus_is("healthy"), seconds=BACK_SECONDS, what="notice of the thawed bus")
    assert b"InvalidStateError" not in house.logs()["gateway.log"]
