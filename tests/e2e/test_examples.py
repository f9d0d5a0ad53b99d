"""Every program in examples/ does what its first lines say, as its reader runs it: a process of its own, told address and key.

`subscriber.py` has tests of its own (tests/service/examples), `langchain_chat.py` is run where LangChain is (tests/clients).
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clients.provider import Provider
from tests.e2e.house import Account, House

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ELSEWHERE = {
    "subscriber.py": "tests/service/examples/test_subscriber.py",
    "langchain_chat.py": "tests/clients/langchain",
}
HERE = ["quickstart.py", "streaming.py", "tools.py", "session_by_bid.py"]
NO_PLACE = "http://127.0.0.1:9/api/v1"


def run(house: House, key: str, script: str, *arguments: str, base_url: str | None = None) -> tuple[int, str, str]:
    environment = {"PATH": os.environ["PATH"], "BASE_URL": base_url or house.stack.base_url, "MODEL": house.llm}
    ran = subprocess.run(
        [sys.executable, str(EXAMPLES / script), *arguments],
        env=environment | ({"API_KEY": key} if key else {}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return ran.returncode, ran.stdout, ran.stderr


def test_every_example_has_a_test() -> None:
    assert sorted([*HERE, *ELSEWHERE]) == sorted(path.name for path in EXAMPLES.glob("*.py"))
    root = EXAMPLES.parent
    assert [place for place in ELSEWHERE.values() if not (root / place).exists()] == []


def test_every_example_is_described() -> None:
    described = (EXAMPLES / "README.md").read_text()
    assert [path.name for path in EXAMPLES.glob("*.py") if f"`{path.name}`" not in described] == []


def test_the_quickstart_prints_the_answer(house: House, account: Account) -> None:
    status, said, complaint = run(house, account.key, "quickstart.py", "say", "it")
    assert (status, complaint) == (0, "")
    assert said.startswith("You asked: say it.")


def test_a_stream_is_printed_with_its_end_and_its_usage(house: House, account: Account) -> None:
    status, said, complaint = run(house, account.key, "streaming.py", "say", "it")
    assert (status, complaint) == (0, "")
    answer, end, usage = said.splitlines()
    assert answer.startswith("You asked: say it.")
    assert end == "[stop]"
    assert usage.startswith("[")
    assert usage.endswith(" answered]")


def test_a_stream_that_breaks_off_is_not_taken_for_an_answer(house: House, account: Account) -> None:
    """C34."""
    with Provider(house.stack.router_url) as provider:
        provider.fail("truncate", "break off here", at=3)
    status, said, complaint = run(house, account.key, "streaming.py", "break off here")
    assert status == 1
    assert "[stop]" not in said
    assert "The answer broke off (stream_truncated)" in complaint


def test_a_tool_is_called_and_its_result_is_in_the_answer(house: House, account: Account) -> None:
    status, said, complaint = run(house, account.key, "tools.py")
    assert (status, complaint) == (0, "")
    called, answer = said.splitlines()
    assert called.startswith("[get_weather {")
    assert "18 °C and rain in" in answer


def test_a_session_is_opened_on_the_bid_that_was_quoted_used_and_closed(house: House) -> None:
    account = house.new_account(automation=False)
    status, said, complaint = run(house, account.key, "session_by_bid.py", "--close")
    assert (status, complaint) == (0, "")
    bid, session, answer, closed = said.splitlines()
    [row] = house.http.get("session/list", params={"ended": True}, headers=account.by_key).json()
    assert row["bid_id"] in bid
    assert row["session_id"] in session
    assert house.chain_session(row["session_id"])["ClosedAt"] > 0
    assert answer.startswith("You asked: Name a river.")
    assert closed == "The session is closed."


@pytest.mark.parametrize("script", HERE)
def test_what_is_refused_is_one_sentence(house: House, script: str) -> None:
    status, said, complaint = run(house, "sk-nonsense", script)
    assert (status, said, complaint.count("\n")) == (1, "", 1)
    assert "API key" in complaint


def test_a_missing_key_is_one_sentence(house: House) -> None:
    status, said, complaint = run(house, "", "quickstart.py")
    assert (status, said, complaint.count("\n")) == (1, "", 1)


def test_a_gateway_that_is_not_there_is_one_sentence(house: House) -> None:
    status, said, complaint = run(house, "sk-any", "session_by_bid.py", base_url=NO_PLACE)
    assert (status, said, complaint.count("\n")) == (1, "", 1)
