"""The documentation in Debian's Chromium: `tests/browser/node/*.test.mjs`, run against a stack (`make test-browser`)."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.e2e.house import House

FOLDER = Path(__file__).with_name("node")


@pytest.mark.timeout(1_500)
@pytest.mark.parametrize("file", sorted(path.name for path in FOLDER.glob("*.test.mjs")))
def test_a_browser_finds_nothing_wrong(house: House, file: str) -> None:
    assert (FOLDER / "node_modules").is_dir(), "the packages are missing: make test-browser installs them"
    environment = {
        **os.environ,
        "ORIGIN": house.stack.base_url.removesuffix("/api/v1"),
        "API_KEY": house.new_account(automation=False).key,
        "MODEL": house.llm,
    }
    command = ["node", "--test", "--test-reporter=spec", "--test-concurrency=1", file]
    ran = subprocess.run(
        command, cwd=FOLDER, env=environment, capture_output=True, text=True, timeout=1_400, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
