"""The documentation's examples in curl and Python, run as they stand against a running stack."""

from pathlib import Path

import pytest

from tests.clients.snippet_answers import record
from tests.clients.snippet_runs import SNIPPETS, Curl, Python, read_all
from tests.clients.snippet_story import without_a_place
from tests.e2e.house import House


def test_every_example_has_a_place_in_the_story() -> None:
    assert without_a_place(SNIPPETS.values()) == []


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("provider")
def test_every_example_in_curl_and_python_runs_as_it_stands(
    house: House, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    readers = read_all(house, [Curl(), Python()], tmp_path)
    assert [failure for reader in readers for failure in reader.failures] == []
    if request.config.getoption("--update-golden"):
        record(readers[0].answers)
