"""One stack for all clients of a run, impatient, so that what takes minutes in production takes seconds here."""

import secrets
from collections.abc import Iterator

import pytest

from tests.clients.provider import Provider
from tests.e2e.house import Account, House
from tests.e2e.stack import running_stack

collect_ignore = ["langchain"]
"""These run in an environment of their own, see `test_langchain.py`."""

SETTINGS = {
    "STREAM_COMMIT": "1",
    "KEEP_ALIVE": "0.3",
    "QUEUE_PER_KEY": "4",
    "PINGS_PER_MINUTE": "1",
    "DELETION_WAIT": "1",
}


@pytest.fixture(scope="session")
def _house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[House, Provider]]:
    with running_stack(tmp_path_factory.mktemp("stack") / "data", "--fresh", settings=SETTINGS) as stack:
        with House.of(stack) as house, Provider(stack.router_url) as provider:
            provider.prepare()
            yield house, provider


@pytest.fixture(scope="session")
def house(_house: tuple[House, Provider]) -> House:
    return _house[0]


@pytest.fixture
def provider(_house: tuple[House, Provider]) -> Iterator[Provider]:
    """The provider behind it, which behaves well again after the test."""
    provider = _house[1]
    yield provider
    provider.relent()


@pytest.fixture(scope="session")
def account(house: House) -> Account:
    """A user with automation on, whose session is open."""
    account = house.new_account(automation=True)
    assert house.chat(account, "hello").status_code == 200
    return account


@pytest.fixture
def mark() -> str:
    """Words that no other prompt has."""
    return f"mark {secrets.token_hex(6)}"
