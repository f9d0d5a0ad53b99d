"""Using a running stack over HTTP, and looking into its chain, databases, logs and bus."""

import asyncio
import secrets
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import httpx2
import nats
import pymongo
from bson.raw_bson import RawBSONDocument
from morpheus_devstack.secrets import StackSecrets
from nats.js.errors import NotFoundError
from openai import OpenAI

from tests.e2e.stack import MORPHEUS, RunningStack
from tests.openapi import CheckedSyncClient

SERVICES = ("gateway", "auth", "sessions", "automation")


@dataclass(frozen=True)
class Account:
    """A user with one key, and what was shown when they were made."""

    email: str
    password: str
    refresh_token: str
    by_token: dict[str, str]
    key: str
    key_id: str

    @property
    def by_key(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}


class House:
    """A running stack as its users and its operator see it."""

    def __init__(self, stack: RunningStack) -> None:
        self.stack = stack
        self.http = CheckedSyncClient(base_url=stack.base_url + "/", timeout=60)
        models = self.http.get("models").json()["data"]
        llms = [model for model in models if model["modelType"] == "LLM"]
        self.llm, self.llm_id = llms[0]["id"], llms[0]["blockchainID"]
        self.embedder = next(model["id"] for model in models if model["modelType"] == "EMBEDDING")

    @classmethod
    @contextmanager
    def of(cls, stack: RunningStack) -> Iterator["House"]:
        """The house of a stack; its connections are closed when the block is left."""
        house = cls(stack)
        try:
            yield house
        finally:
            house.http.close()

    # using it

    def openai(self, key: str) -> OpenAI:
        return OpenAI(api_key=key, base_url=self.stack.base_url, max_retries=0, timeout=60)

    def new_account(self, *, automation: bool) -> Account:
        email, password = f"{secrets.token_hex(6)}@example.com", secrets.token_urlsafe(16)
        registered = self.http.post("auth/register", json={"email": email, "password": password})
        assert registered.status_code == 201, registered.text
        tokens = self.http.post("auth/login", json={"email": email, "password": password}).json()
        by_token = {"Authorization": f"Bearer {tokens['access_token']}"}
        account = self.new_key(Account(email, password, tokens["refresh_token"], by_token, "", ""))
        if automation:
            changed = self.http.put("automation/settings", json={"is_enabled": True}, headers=by_token)
            assert changed.status_code == 200, changed.text
        return account

    def new_key(self, account: Account) -> Account:
        """The same user with another key."""
        made = self.http.post("auth/keys", json={"name": "test"}, headers=account.by_token)
        assert made.status_code == 201, made.text
        return replace(account, key=made.json()["key"], key_id=made.json()["id"])

    def chat(self, account: Account, text: str, **options: Any) -> httpx2.Response:
        body = {"model": self.llm, "messages": [{"role": "user", "content": text}], **options}
        return self.http.post("chat/completions", json=body, headers=account.by_key)

    def usage(self, headers: dict[str, str], **query: str) -> dict[str, Any]:
        """What somebody has used."""
        answer = self.http.get("usage", params=query, headers=headers)
        assert answer.status_code == 200, answer.text
        report: dict[str, Any] = answer.json()
        return report

    def recorded(self, answer: httpx2.Response) -> None:
        """Wait until what a request used is recorded, and so what all did that ended before it."""
        request_id = answer.headers["x-request-id"]
        with pymongo.MongoClient[dict[str, Any]](self.stack.mongo_url) as client:
            usage = client["sessions"]["usage"]
            self.eventually(
                lambda: usage.find_one({"request_id": request_id}) is not None, seconds=10, what="record of usage"
            )

    def embed(self, account: Account, *texts: str, **options: Any) -> httpx2.Response:
        body = {"model": self.embedder, "input": texts, **options}
        return self.http.post("embeddings", json=body, headers=account.by_key)

    def admin(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `morpheus admin` as the operator of the stack."""
        command = [str(MORPHEUS), "admin", *arguments, "--data", str(self.stack.folder.path)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def made_by_admin(self, *arguments: str) -> str:
        """Return the code or token that the operator makes."""
        made = self.admin(*arguments)
        assert made.returncode == 0, made.stderr
        return made.stdout.strip()

    # looking inside

    def router(self, path: str) -> Any:
        """What the router says; its password is in the stack's own settings."""
        env = self.stack.env
        auth = (env["PROXY_ROUTER_USER"], env["PROXY_ROUTER_PASSWORD"])
        return httpx2.get(self.stack.router_url + path, auth=auth, timeout=10).json()

    def chain_session(self, session_id: str) -> dict[str, Any]:
        session: dict[str, Any] = self.router(f"/blockchain/sessions/{session_id}")["session"]
        return session

    def opens(self) -> int:
        """How many sessions the chain has had."""
        return len(self.router(f"/blockchain/sessions/user/ids?user={self.router('/wallet')['address']}&limit=255"))

    def is_ready(self) -> bool:
        try:
            return self.http.get(self.stack.gateway_url + "/ready").status_code == 200
        except httpx2.HTTPError:
            return False

    def eventually(self, condition: Callable[[], bool], *, seconds: float, what: str) -> None:
        until = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < until, f"no {what} within {seconds} s"
            time.sleep(0.05)

    def logs(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (self.stack.folder.path / "logs").glob("*.log")}

    def mongo_url(self, user: str) -> str:
        """The database as one of its users (`root`, or a service) sees it; the stack's own url is that of `ops`."""
        passwords = StackSecrets.load(self.stack.folder.path).mongo_passwords
        return self.stack.mongo_url.replace(f"ops:{passwords['ops']}@", f"{user}:{passwords[user]}@")

    def metrics(self) -> dict[str, str]:
        """What each service shows on its private port, by its name."""
        ports = {user: int(self.stack.env[f"{user.upper()}_METRICS_PORT"]) for user in SERVICES}
        return {user: httpx2.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text for user, port in ports.items()}

    def dump_databases(self) -> dict[str, bytes]:
        """Every document of every database of ours, as text."""
        dump = {}
        with pymongo.MongoClient[dict[str, Any]](self.stack.mongo_url) as client:
            for database in ("auth", "sessions", "automation"):
                for collection in client[database].list_collection_names():
                    rows = list(client[database][collection].find())
                    dump[f"{database}.{collection}"] = repr(rows).encode()
        return dump

    def events(self) -> list[tuple[dict[str, str], bytes]]:
        """Everything the event stream keeps: headers and body."""

        async def read() -> list[tuple[dict[str, str], bytes]]:
            connection = await nats.connect(self.stack.nats_url)
            try:
                jetstream = connection.jetstream()
                state = (await jetstream.stream_info("EVENTS")).state
                found = []
                for sequence in range(state.first_seq, state.last_seq + 1):
                    message = await jetstream.get_msg("EVENTS", sequence)
                    found.append((dict(message.headers or {}), message.data or b""))
                return found
            finally:
                await connection.close()

        return asyncio.run(read())

    def everything_written(self) -> dict[str, bytes]:
        """All that the parts of the stack have left behind, as bytes, by place: every log, every document of every database with
        all that was ever changed (the oplog), and every message that a stream still keeps.
        """
        left = {f"log {name}": content for name, content in self.logs().items()}
        left["log of the stack"] = self.stack.said().encode()
        with pymongo.MongoClient[RawBSONDocument](self.mongo_url("root"), document_class=RawBSONDocument) as client:
            places = [
                client[database][collection]
                for database in client.list_database_names()
                if database not in {"admin", "config", "local"}
                for collection in client[database].list_collection_names()
            ]
            for place in (*places, client["local"]["oplog.rs"]):
                left[f"database {place.full_name}"] = b"".join(row.raw for row in place.find())
        return left | asyncio.run(self._streams())

    async def _streams(self) -> dict[str, bytes]:
        connection = await nats.connect(self.stack.nats_url)
        try:
            jetstream, left = connection.jetstream(), {}
            for stream in await jetstream.streams_info():
                name, kept = stream.config.name or "", b""
                for sequence in range(max(1, stream.state.first_seq), stream.state.last_seq + 1):
                    with suppress(NotFoundError):
                        message = await jetstream.get_msg(name, sequence)
                        kept += repr(message.headers).encode() + (message.data or b"")
                left[f"stream {name}"] = kept
            return left
        finally:
            await connection.close()

    @contextmanager
    def bus_capture(self) -> Iterator[list[bytes]]:
        """Record every message on the bus, headers included, while the block runs."""
        captured: list[bytes] = []
        listening, enough = threading.Event(), threading.Event()

        async def listen() -> None:
            connection = await nats.connect(self.stack.nats_url)

            async def record(message: Any) -> None:
                captured.append(repr(message.headers).encode() + message.data)

            await connection.subscribe(">", cb=record)
            await connection.flush()
            listening.set()
            await asyncio.to_thread(enough.wait)
            await connection.drain()

        thread = threading.Thread(target=lambda: asyncio.run(listen()))
        thread.start()
        assert listening.wait(10)
        try:
            yield captured
        finally:
            enough.set()
            thread.join(30)
