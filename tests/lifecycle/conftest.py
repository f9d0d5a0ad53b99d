"""One stack for what is lost and put back: parts that were ended stay down until they are started again."""

from collections.abc import Iterator

import pytest

from tests.e2e.house import House
from tests.e2e.stack import running_stack

KEY_CHECK_SECONDS = 2


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A running stack that nobody repairs."""
    folder = tmp_path_factory.mktemp("stack") / "data"
    settings = {"KEY_CHECK_SECONDS": str(KEY_CHECK_SECONDS), "RECONCILE_SECONDS": "2"}
    with running_stack(folder, "--fresh", "--no-supervise", settings=settings) as running, House.of(running) as house:
        yield house
