"""Clients that run in Node: their tests are `tests/clients/node/*.test.mjs`, run against the same stack (`make test-node`)."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.clients.blocks import Block
from tests.clients.test_documentation import CLIENTS, environment, titled
from tests.e2e.house import Account, House

FOLDER = Path(__file__).with_name("node")
KEYS = 4
"""Tests that wait do so side by side, each with a session of its own."""


@pytest.mark.parametrize("file", sorted(path.name for path in FOLDER.glob("*.test.mjs")))
@pytest.mark.usefixtures("provider")
def test_node_clients_work_as_with_openai(house: House, account: Account, keys: list[str], file: str) -> None:
    assert (FOLDER / "node_modules").is_dir(), "the packages are missing: make test-node installs them"
    restricted = house.http.post("auth/keys", json={"name": "no chat", "scopes": ["usage"]}, headers=account.by_token)
    environment = {
        **os.environ,
        "BASE_URL": house.stack.base_url,
        "ROUTER_URL": house.stack.router_url,
        "MODEL": house.llm,
        "API_KEYS": json.dumps(keys),
        "RESTRICTED_KEY": restricted.json()["key"],
        "UNFUNDED_KEY": house.new_account(automation=False).key,
    }
    command = ["node", "--test", "--test-reporter=spec", "--test-concurrency=1", file]
    ran = subprocess.run(command, cwd=FOLDER, env=environment, capture_output=True, text=True, timeout=110, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("block", titled(CLIENTS, "js"))
def test_the_javascript_that_the_documentation_shows_runs(house: House, account: Account, block: Block) -> None:
    command = ["node", "--input-type=module", "--eval", block.text]
    ran = subprocess.run(
        command,
        cwd=FOLDER,
        env=environment(house, account),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("You asked: Name a river.")


@pytest.fixture(scope="module")
def keys(house: House, account: Account) -> list[str]:
    accounts = [account, *(house.new_key(account) for _ in range(KEYS - 1))]
    assert [house.chat(one, "hello").status_code for one in accounts] == [200] * KEYS
    return [one.key for one in accounts]
