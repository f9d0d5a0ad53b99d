"""What the documentation shows is done as its reader does it: copied, and run against a gateway.

Blocks of JavaScript are run where Node is, in `test_node.py`.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clients.blocks import DOCS, Block, blocks
from tests.clients.journeys import spoken
from tests.clients.test_langchain import PYTHON as LANGCHAIN_PYTHON
from tests.e2e.house import Account, House

GETTING_STARTED = blocks("getting-started.md", "sh")
BY_HAND = "Without automation: a session by hand"
TOOLS = ("curl", "date", "grep", "od", "sed", "tr")
"""All that a reader is asked to have beside his shell."""

CLIENTS = "clients.md"
NOT_RUN = {
    "LangChain for JavaScript": "not among the packages of test-node; what it sends is what OpenAI's SDK for Node sends",
    "LlamaIndex": "its packages are many and large; what it sends is what OpenAI's SDK for Python sends",
}
"""Headings of the clients whose blocks no test runs, and why. The page says so too."""


def titled(page: str, *languages: str) -> list[object]:
    return [
        pytest.param(block, id=f"{number}-{block.heading}")
        for number, block in enumerate(blocks(page, *languages))
        if block.heading not in NOT_RUN
    ]


@pytest.fixture
def shell(tmp_path: Path, house: House) -> "Shell":
    return Shell(tmp_path, house.stack.gateway_url)


class Shell:
    """A shell with an empty home, nothing in its environment, and no programs but those that the page names."""

    def __init__(self, folder: Path, gateway_url: str) -> None:
        self._gateway_url = gateway_url
        self._home, self._bin = folder / "home", folder / "bin"
        self._home.mkdir()
        self._bin.mkdir()
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found is not None
            (self._bin / tool).symlink_to(found)

    def run(self, copied: list[Block]) -> list[str]:
        """Run blocks one after the other, as they would be pasted; return what each printed."""
        script = "".join(f"{block.at(self._gateway_url)}printf '\\n== end\\n'\n" for block in copied)
        shell = shutil.which("sh")
        assert shell is not None
        environment = {"HOME": str(self._home), "PATH": str(self._bin)}
        ran = subprocess.run(
            [shell],
            input=script,
            env=environment,
            cwd=self._home,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert (ran.returncode, ran.stderr) == (0, "")
        return ran.stdout.split("\n== end\n")[:-1]


def test_three_copied_commands_lead_from_an_address_to_a_streamed_answer(shell: Shell, house: House) -> None:
    account, automation, answer, cost = shell.run([block for block in GETTING_STARTED if block.heading != BY_HAND])
    assert json.loads(account.splitlines()[0])["is_active"] is True
    assert [line.partition("=")[0] for line in account.splitlines()[1:]] == ["EMAIL", "PASSWORD", "API_KEY"]
    key = account.splitlines()[-1].removeprefix("API_KEY=")
    assert json.loads(automation)["is_enabled"] is True
    assert answer.count("\ndata: ") > 3
    assert spoken(answer).startswith("You asked: Why is the sky blue?.")
    assert answer.rstrip().endswith("data: [DONE]")
    session, usage = (json.loads(line) for line in cost.splitlines())
    assert int(session["stake"]) > int(session["price_per_second"]) > 0
    assert session["automation"]["decision"] == "open"
    assert "totals" in usage
    assert house.http.get("auth/keys/current", headers={"Authorization": f"Bearer {key}"}).status_code == 200


def test_a_session_is_opened_used_and_closed_by_hand_with_what_the_page_shows(shell: Shell, house: House) -> None:
    by_hand = [block for block in GETTING_STARTED if block.heading == BY_HAND]
    _account, quoted, opened, answer, closed = shell.run([GETTING_STARTED[0], *by_hand])
    quote, session = json.loads(quoted), json.loads(opened)
    assert quote["duration"] == 600
    assert int(session["stake"]) >= int(quote["stake"]) > int(quote["cost"])
    assert spoken(answer).startswith("You asked: Why is grass green?.")
    assert json.loads(closed)["session_id"] == session["session_id"]
    assert house.chain_session(session["session_id"])["ClosedAt"] > 0


def test_what_fails_shows_itself_in_the_first_line(shell: Shell) -> None:
    first = GETTING_STARTED[0]
    broken = Block(first.heading, first.language, first.text.replace("@example.com", "").replace("-$$", ""))
    [printed] = shell.run([broken])
    assert json.loads(printed.splitlines()[0])["error"]["code"] == "validation_error"
    assert printed.splitlines()[-1] == "API_KEY="


def environment(house: House, account: Account) -> dict[str, str]:
    return {
        **os.environ,
        "BASE_URL": house.stack.base_url,
        "API_KEY": account.key,
        "MODEL": house.llm,
        # whatever the caller's own LangChain reports to whom, this one speaks to the stack alone
        "LANGSMITH_TRACING": "false",
        "LANGCHAIN_TRACING_V2": "false",
    }


@pytest.mark.parametrize("block", titled(CLIENTS, "python"))
def test_the_python_that_is_shown_for_a_client_runs(house: House, account: Account, block: Block) -> None:
    python = str(LANGCHAIN_PYTHON) if "langchain" in block.text else sys.executable
    ran = subprocess.run(
        [python, "-c", block.text],
        env=environment(house, account),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    if "embeddings" in block.text:
        assert ran.stdout == "[16, 16]\n"
    else:
        assert ran.stdout.startswith("You asked: Name a river.")


def test_the_curl_that_is_shown_runs(house: House, account: Account, tmp_path: Path) -> None:
    settings, command = blocks(CLIENTS, "sh")
    assert command.heading == "curl"
    script = settings.at(house.stack.gateway_url).replace("sk-…", account.key) + command.text
    ran = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert spoken(ran.stdout).startswith("You asked: Name a river.")


def test_the_page_says_of_every_client_whose_block_is_not_run_that_it_is_not_tested() -> None:
    headings = {block.heading for block in blocks(CLIENTS, "python", "js")}
    assert headings >= set(NOT_RUN)
    row = next(line for line in (DOCS / CLIENTS).read_text().splitlines() if "tried by hand" in line)
    assert [heading for heading in NOT_RUN if heading not in row] == []
