"""Running the documentation's examples as a reader would: in a shell, in a fresh interpreter, in Node."""

import ast
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import jsonschema_rs
import pymongo
from morpheus_auth.settings import DEVELOPMENT_DELEGATE
from morpheus_gateway.openapi import document
from morpheus_site.generated.endpoints import Endpoint, endpoints
from morpheus_site.generated.snippets import SDK_OPERATIONS, Snippet, requests_of, variables_of

from tests.clients.snippet_story import AFTERWARDS, DELETION, FROM_DATABASE, FROM_OPERATOR, LIFE, Step
from tests.e2e.house import House
from tests.e2e.operations import World, delegation
from tests.e2e.test_session_endpoints import fault

SECONDS = 60
NODE = Path(__file__).with_name("node")

ENDPOINTS: dict[str, Endpoint] = {endpoint.id: endpoint for endpoint in endpoints(document())}
SNIPPETS: dict[str, Snippet] = {one.key: one for endpoint in ENDPOINTS.values() for one in endpoint.snippets()}


@dataclass(frozen=True)
class Ran:
    """What became of a program. `body`: the answer's JSON; None where the program showed only a part of it, or there is none."""

    status: int | None
    body: Any
    said: str


class Runner(Protocol):
    """Runs programs of one language. A folder is for one program alone."""

    language: str

    def run(self, text: str, folder: Path, environment: Mapping[str, str]) -> Ran: ...


def _finish(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, env=dict(environment), capture_output=True, text=True, timeout=SECONDS, check=False
    )


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None


class Curl:
    """bash, with a curl that keeps the head of the answer where we find it: what a reader's own `.curlrc` could say."""

    language = "curl"

    def run(self, text: str, folder: Path, environment: Mapping[str, str]) -> Ran:
        head, script = folder / "head", folder / "example.sh"
        head.touch()
        (folder / ".curlrc").write_text(f'dump-header = "{head}"\nmax-time = {SECONDS}\n')
        script.write_text(text)
        done = _finish(["bash", "-euo", "pipefail", str(script)], folder, {**environment, "CURL_HOME": str(folder)})
        statuses = [line.split()[1] for line in head.read_text().splitlines() if line.startswith("HTTP/")]
        status = int(statuses[-1]) if done.returncode == 0 and statuses else None
        return Ran(status, _parsed(done.stdout), done.stdout + done.stderr)


class Python:
    """A fresh interpreter, in which the client's own log says what status came."""

    language = "Python"

    _LOUD = "import logging, runpy, sys; logging.basicConfig(level='INFO', filename=sys.argv[2]); runpy.run_path(sys.argv[1])"

    def run(self, text: str, folder: Path, environment: Mapping[str, str]) -> Ran:
        log, script = folder / "log", folder / "example.py"
        script.write_text(text)
        done = _finish([sys.executable, "-c", self._LOUD, str(script), str(log)], folder, environment)
        statuses = [
            line.rpartition('"HTTP/1.1 ')[2][:3] for line in log.read_text().splitlines() if '"HTTP/1.1 ' in line
        ]
        status = int(statuses[-1]) if done.returncode == 0 and statuses else None
        try:
            body = ast.literal_eval(done.stdout.strip())
        except (SyntaxError, ValueError):
            body = None
        return Ran(status, body, done.stdout + done.stderr)


class JavaScript:
    """Node, with a fetch that notes what came."""

    language = "JavaScript"

    def run(self, text: str, folder: Path, environment: Mapping[str, str]) -> Ran:
        notes, script = folder / "notes.json", folder / "example.mjs"
        script.write_text(text)
        (folder / "node_modules").symlink_to(NODE / "node_modules")
        command = ["node", "--import", (NODE / "noting-fetch.mjs").as_uri(), str(script)]
        done = _finish(command, folder, {**environment, "NOTES": str(notes)})
        last = json.loads(notes.read_text())[-1] if done.returncode == 0 and notes.exists() else {}
        return Ran(last.get("status"), _parsed(last.get("body") or ""), done.stdout + done.stderr)


@dataclass
class Reader:
    """Somebody who goes through the documentation in one language, with an account of his own."""

    house: House
    runner: Runner
    folder: Path
    values: dict[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    _count: int = 0

    def __post_init__(self) -> None:
        email = f"{secrets.token_hex(6)}@example.com"
        wanted = delegation(World(email, "", "", {}, "", "", ""))
        self.values |= {
            "BASE_URL": self.house.stack.base_url,
            "EMAIL": email,
            "PASSWORD": secrets.token_urlsafe(16),
            "NEW_PASSWORD": secrets.token_urlsafe(16),
            "PRIVATE_KEY": "0x" + secrets.token_hex(32),
            "DELEGATE_ADDRESS": DEVELOPMENT_DELEGATE,
            "DELEGATION": json.dumps(wanted["signed_delegation_data"]),
        }

    def follow(self, steps: Sequence[Step]) -> None:
        """Run the examples of these steps. What goes wrong is noted, and the rest is tried all the same."""
        for step in steps:
            self.values |= {name: self._made(source) for name, source in step.first.items()}
            ran = self._run(step)
            problem = self._problem(step, ran)
            if problem is not None:
                self.failures.append(f"{step.name}.{self.runner.language}: {problem}\n{ran.said}")
            elif ran.body is not None:
                self.answers.setdefault(step.operation, {}).setdefault(str(step.status), ran.body)
                self.values |= {name: _found(ran.body, path) for name, path in step.keeps.items()}

    def _made(self, source: str) -> str:
        if source == FROM_OPERATOR:
            return self.house.made_by_admin("reset-link", self.values["EMAIL"])
        if source != FROM_DATABASE:
            return self.values[source]
        with pymongo.MongoClient[dict[str, Any]](self.house.stack.mongo_url) as client:
            session = client["sessions"]["sessions"].find_one({"key_id": self.values.get("KEY_ID"), "state": "active"})
        return "" if session is None else str(session["operation_id"])

    def _run(self, step: Step) -> Ran:
        endpoint = ENDPOINTS[step.operation]
        snippet = SNIPPETS[f"{step.name}.{self.runner.language}"]
        request = next(
            one
            for name, one in requests_of(endpoint.method, endpoint.path, endpoint.operation)
            if (name or "only") == step.example
        )
        # what the page says is needed, and nothing else
        needed = variables_of(request, self.runner.language)
        missing = [name for name in needed if name not in self.values]
        if missing:
            return Ran(None, None, f"nothing has given {', '.join(missing)}")
        self._count += 1
        folder = self.folder / f"{self._count:02}-{step.operation}"
        folder.mkdir(parents=True)
        environment = {"PATH": os.environ["PATH"], "HOME": str(folder), **{name: self.values[name] for name in needed}}
        ran = self.runner.run(snippet.text, folder, environment)
        # what an SDK's caller prints is not the answer
        return replace(ran, body=None) if self.runner.language == "Python" and step.operation in SDK_OPERATIONS else ran

    def _problem(self, step: Step, ran: Ran) -> str | None:
        if ran.status != step.status:
            return f"{step.status} was to be the answer, {ran.status} it is"
        answer = ENDPOINTS[step.operation].responses[step.status]
        schema = answer.get("content", {}).get("application/json", {}).get("schema")
        if ran.body is None and step.keeps:
            return f"{', '.join(step.keeps)} cannot be taken from it"
        if ran.body is None:
            return None if ran.said.strip() or step.status == 204 else "nothing was shown"
        if schema is None:
            return None
        whole = {"components": document()["components"], **schema}
        return next(
            (
                f"the answer is not as described: {error.message}"
                for error in jsonschema_rs.iter_errors(whole, ran.body)
            ),
            None,
        )


def _found(body: Any, path: str) -> str:
    for part in path.split("."):
        body = body[int(part) if isinstance(body, list) else part]
    return str(body).rpartition("/")[2]


def read_all(house: House, runners: Sequence[Runner], folder: Path) -> list[Reader]:
    """Have readers go through the whole story side by side, and return them with what they found."""
    readers = [Reader(house, runner, folder / runner.language) for runner in runners]

    def together(steps: Sequence[Step]) -> None:
        with ThreadPoolExecutor(len(readers)) as pool:
            list(pool.map(lambda reader: reader.follow(steps), readers))

    together(LIFE)
    with fault(house, "close", "hang", count=None):
        together(DELETION)
    together(AFTERWARDS)
    return readers
