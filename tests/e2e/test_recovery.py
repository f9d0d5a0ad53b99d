"""A service killed without warning: clear words meanwhile, and everything works when it is back."""

import httpx2
import pytest

from tests.e2e.stack import RunningStack


@pytest.mark.parametrize("service", ["auth", "automation", "sessions", "gateway"])
def test_a_killed_service_comes_back_and_errors_meanwhile_are_in_openai_s_form(
    stack: RunningStack, service: str
) -> None:
    account = stack.new_account(automation=True)
    fresh = stack.new_key(account)
    assert stack.chat(account, "before").status_code == 200
    before = stack.kill(service)
    answers = []
    for number in range(40):
        # the first prompt of a key needs every service; that of a warm one only some
        try:
            answers.append(stack.chat(fresh if number % 2 else account, f"meanwhile {number}"))
        except httpx2.TransportError:
            assert service == "gateway", "only a dead gateway drops connections"
        if stack.pid(service) not in {None, before} and stack.is_ready():
            break
    stack.eventually(lambda: stack.pid(service) not in {None, before}, seconds=20, what=f"new {service}")
    stack.eventually(stack.is_ready, seconds=20, what="readiness")
    for answer in answers:
        if answer.status_code != 200:
            error = answer.json()["error"]
            assert answer.status_code in {503, 504}, error
            assert error["type"] == "server_error"
            assert error["message"]
            assert answer.headers["x-request-id"]
    for key in (account, fresh):
        after = stack.chat(key, "after")
        assert after.status_code == 200, after.text
