"""Who may do what on the bus, as it is written into the server's configuration."""

import re

import pytest
from morpheus_common.bus.names import ACCOUNT, INBOX, User
from morpheus_common.bus.permissions import permissions_of, render_server_config
from morpheus_common.contracts import REGISTRY


def rendered(observer: tuple[str, str] | None = None) -> str:
    accounts = {ACCOUNT: {user: f"U{user.upper()}" for user in User}}
    return render_server_config(listen="127.0.0.1:4222", store_dir="/data/js", accounts=accounts, observer=observer)


def blocks() -> dict[str, str]:
    return dict(re.findall(r'nkey: "U(\w+)", (.*)', rendered()))


def test_every_user_has_rights_of_its_own_and_nobody_may_do_everything() -> None:
    assert set(blocks()) == {user.upper() for user in User}
    for user in User:
        rights = permissions_of(user)
        assert f"{INBOX[user]}.>" in rights.subscribe
        assert not {">", "*", "*.>"} & {*rights.publish, *rights.subscribe}


@pytest.mark.parametrize("user", list(User))
def test_a_user_that_may_publish_nothing_is_denied_everything_and_not_allowed_it(user: User) -> None:
    rights = permissions_of(user)
    block = blocks()[user.upper()]

    assert ('publish: { deny: [">"] }' in block) == (not rights.publish)
    assert ("allow_responses: true" in block) == rights.answers
    for subject in (*rights.publish, *rights.subscribe):
        assert f'"{subject}"' in block


def test_who_answers_questions_may_answer_and_who_does_not_may_not() -> None:
    services = {rpc.service for rpc in REGISTRY.rpcs.values()}
    assert {user for user in User if permissions_of(user).answers} == services


def test_every_question_has_a_caller_and_no_service_asks_itself() -> None:
    for rpc in REGISTRY.rpcs.values():
        assert rpc.callers
        assert rpc.service not in rpc.callers


def test_an_observer_is_for_development_and_publishes_nothing_but_to_jetstream() -> None:
    assert "password:" not in rendered()
    observed = rendered(observer=("watch", 'pa"ss'))
    assert 'user: "watch", password: "pa\\"ss"' in observed
    line = next(line for line in observed.splitlines() if "watch" in line)
    assert 'publish: { allow: ["$JS.API.>", "$JS.ACK.>"] }' in line


def test_the_servers_limits_are_written_down() -> None:
    assert "max_payload: 1048576" in rendered()
    assert 'listen: "127.0.0.1:4222"' in rendered()
