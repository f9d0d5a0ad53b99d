"""One stack for all tests of a run: started once, as a developer would."""

from collections.abc import Iterator

import pytest

from tests.e2e.stack import Account, RunningStack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """The whole stack."""
    with RunningStack.started(tmp_path_factory.mktemp("stack") / "data", "--fresh") as running:
        yield running


@pytest.fixture(scope="session")
def account(stack: RunningStack) -> Account:
    """A user with automation on and one key, for tests that need no more of it."""
    return stack.new_account(automation=True)
