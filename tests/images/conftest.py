from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.docker.images import TARGETS, build
from tests.images.engine import BASE, ENGINE, NETWORK, System, image, make_standin, running


@pytest.fixture(scope="session")
def images() -> None:
    """All images, built."""
    build(ENGINE, "base", image("base"), BASE, network=NETWORK, fresh=False)
    for target in TARGETS:
        build(ENGINE, target, image(target), BASE, network=NETWORK, fresh=False)


@pytest.fixture(scope="session")
def system(images: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:  # noqa: ARG001 - they have to be there
    """What `docker compose up` makes of them."""
    folder: Path = tmp_path_factory.mktemp("compose")
    make_standin(tmp_path_factory.mktemp("standin") / "context")
    with running(folder) as started:
        yield started
