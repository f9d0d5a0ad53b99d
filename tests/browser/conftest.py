"""A stack whose documentation is looked at."""

from collections.abc import Iterator

import pytest

from tests.e2e.house import House
from tests.e2e.stack import running_stack

SETTINGS = {"PUBLIC_GETS_PER_MINUTE": "100000"}
"""One browser reads more pages in a minute than people do."""


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with (
        running_stack(tmp_path_factory.mktemp("stack") / "data", "--fresh", settings=SETTINGS) as stack,
        House.of(stack) as house,
    ):
        yield house
