"""The documentation's examples in JavaScript, run as they stand against a running stack (`make test-node`)."""

from pathlib import Path

import pytest

from tests.clients.snippet_runs import NODE, JavaScript, read_all
from tests.e2e.house import House


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("provider")
def test_every_example_in_javascript_runs_as_it_stands(house: House, tmp_path: Path) -> None:
    assert (NODE / "node_modules").is_dir(), "the packages are missing: make test-node installs them"
    [reader] = read_all(house, [JavaScript()], tmp_path)
    assert reader.failures == []
