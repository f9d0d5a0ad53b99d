"""Which router the contract is held against, and which tests may run there."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.target import Router, Target, simulator

_HERE = Path(__file__).parent
_PATIENCE_SECONDS = 1200
"""For a test on a real chain: an open alone may take six minutes (Contract 2.6)."""
_SPENDING = "it opens sessions, which locks real stakes, or changes the router; ROUTER_MAY_SPEND=1 allows that"
_CONTROLS = "it needs the controls of the simulator, and ROUTER_URL names another router"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "spends: it changes the router or locks stakes")
    config.addinivalue_line("markers", "simulator: it needs the simulator's controls under /sim")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not os.environ.get("ROUTER_URL"):
        return
    may_spend = os.environ.get("ROUTER_MAY_SPEND") == "1"
    for item in items:
        if _HERE not in item.path.parents:
            continue
        item.add_marker(pytest.mark.timeout(_PATIENCE_SECONDS))
        if item.get_closest_marker("simulator"):
            item.add_marker(pytest.mark.skip(reason=_CONTROLS))
        elif item.get_closest_marker("spends") and not may_spend:
            item.add_marker(pytest.mark.skip(reason=_SPENDING))


@pytest.fixture(scope="session")
def target() -> Iterator[Target]:
    """The router of ROUTER_URL, or a simulator of this run's own."""
    given = Target.from_environment()
    if given is not None:
        yield given
        return
    with simulator("--answer-time", "0.2", "--rpc-user", "reader:reading:get_models") as started:
        yield started


@pytest.fixture
def router(target: Target, request: pytest.FixtureRequest) -> Iterator[Router]:
    """A client that changes something only in a test that is marked for it."""
    marks = [request.node.get_closest_marker(name) for name in ("spends", "simulator")]
    client = Router(target, may_change=any(mark is not None for mark in marks))
    yield client
    client.close()


@pytest.fixture(scope="session")
def _spender(target: Target) -> Iterator[Router]:
    client = Router(target, may_change=True)
    yield client
    client.close()


@pytest.fixture(scope="session")
def chat_session(_spender: Router) -> str:
    """A session with a language model that all tests share which only prompt. It is left to run out: that is cheapest."""
    return _spender.open("LLM")


@pytest.fixture(scope="session")
def embeddings_session(_spender: Router) -> str:
    """The same with an embedding model."""
    return _spender.open("EMBEDDING")


@pytest.fixture
def controls(router: Router) -> Iterator[Router]:
    """The router with the simulator's controls; what a test switched is switched back."""
    balance = router.read("/blockchain/balance")
    yield router
    router.control("/sim/faults", method="DELETE")
    router.control("/sim/balance", balance)
    for provider in router.read("/blockchain/providers")["providers"]:
        router.control("/sim/providers", {"address": provider["Address"], "online": True})
