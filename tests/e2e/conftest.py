"""The one stack that all end-to-end tests of a run share. A test that ends it for good starts one of its own."""

from collections.abc import Iterator

import pytest

from tests.collector import Collector, collecting
from tests.e2e.house import Account, House
from tests.e2e.stack import RunningStack, running_stack


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    """Where every service of the stack sends its traces."""
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[RunningStack]:
    """A running stack with the demo user, its key, and automation on. Whoever breaks a part waits until it is back."""
    folder = tmp_path_factory.mktemp("stack") / "data"
    with running_stack(folder, "--fresh", settings=collector.settings) as running:
        yield running


@pytest.fixture(scope="session")
def house(stack: RunningStack) -> Iterator[House]:
    """The same stack, to be used and looked into."""
    with House.of(stack) as house:
        yield house


@pytest.fixture(scope="session")
def account(house: House) -> Account:
    """A user with automation on and one key, for tests that need no more of it."""
    return house.new_account(automation=True)
