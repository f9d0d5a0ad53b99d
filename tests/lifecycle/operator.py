"""What an operator does to a stack: ends parts, starts them, and runs `morpheus`."""

import json
import signal
import subprocess
from typing import Any

from tests.e2e.house import Account, House
from tests.e2e.stack import MORPHEUS

PATIENCE_SECONDS = 60.0
DIFFERENT = 3
"""How an audit ends that found a difference."""


def morpheus(house: House, *arguments: str, code: int = 0) -> str:
    """Run a command of the stack's operator; it has to end with `code`."""
    command = [str(MORPHEUS), *arguments, "--data", str(house.stack.folder.path)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert ran.returncode == code, f"{arguments}: {ran.returncode} {ran.stdout} {ran.stderr}"
    return ran.stdout


def rows(said: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in said.splitlines()]


def differences(house: House, *, code: int = 0) -> dict[str, str]:
    """Hold records beside the chain; return what differs, by session."""
    said = rows(morpheus(house, "sessions", "audit", "--json", "--apart", "3", code=code))
    return {row["session"]: row["kind"] for row in said[:-1]}


def end(house: House, *names: str) -> None:
    """End parts, and wait until they are gone."""
    for name in names:
        house.stack.send(name, signal.SIGTERM)
    house.eventually(
        lambda: not set(names) & set(house.stack.folder.pids()), seconds=PATIENCE_SECONDS, what=f"end of {names}"
    )


def start_dead_ones(house: House, name: str) -> None:
    """Start a part that is down, and with it all others that are."""
    morpheus(house, "restart", name)


def open_session(house: House, account: Account) -> str:
    """Open a session for a key by hand; return its id on chain."""
    opened = house.http.post(
        "session/modelsession", params={"model_id": house.llm}, headers=account.by_key, timeout=110
    )
    assert opened.status_code == 200, opened.text
    session: str = opened.json()["session_id"]
    return session


def is_closed(house: House, session: str) -> bool:
    return bool(house.chain_session(session)["ClosedAt"])
