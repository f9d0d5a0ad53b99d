from collections.abc import Iterator

import pytest

from tests.state_machine.house import House, house


@pytest.fixture(scope="session")
def stage() -> Iterator[House]:
    """A database server in memory and an event loop, for all examples."""
    with house() as found:
        yield found
