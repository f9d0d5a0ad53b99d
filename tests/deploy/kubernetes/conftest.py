"""Clusters are put together once a run."""

from pathlib import Path

import pytest

from tests.deploy.kubernetes.clusters import CLUSTERS, built, operators_tree
from tests.deploy.kubernetes.manifests import Manifests


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of `deploy/k8s` in which an operator has set everything."""
    return operators_tree(tmp_path_factory.mktemp("deploy"))


@pytest.fixture(scope="session")
def clusters(tree: Path) -> dict[str, Manifests]:
    """All clusters, by name. They are read, or copied before they are changed."""
    return {name: built(tree, name) for name in CLUSTERS}
