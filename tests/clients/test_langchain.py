"""LangChain, whose needs do not fit beside the product's: its tests run in `.venv-clients`, with the same stack."""

import os
import subprocess
from pathlib import Path

from tests.e2e.house import Account, House

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-clients" / "bin" / "python"
TESTS = Path(__file__).with_name("langchain")


def test_langchain_works_as_with_openai(house: House, account: Account) -> None:
    assert PYTHON.exists(), f"{PYTHON} is missing: make test-clients installs it"
    environment = {
        **os.environ,
        "BASE_URL": house.stack.base_url,
        "API_KEY": account.key,
        "MODEL": house.llm,
        "ROUTER_URL": house.stack.router_url,
        # whatever the caller's own LangChain reports to whom, this one speaks to the stack alone
        "LANGSMITH_TRACING": "false",
        "LANGCHAIN_TRACING_V2": "false",
    }
    # not those of the product: this environment has not what they import
    without_parents = f"--confcutdir={TESTS}"
    command = [str(PYTHON), "-m", "pytest", "-q", without_parents, "-p", "no:cacheprovider", str(TESTS)]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
