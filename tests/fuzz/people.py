"""Who asks: accounts made through the API itself, so many that what one operation does to its caller disturbs no other.

To be used from several threads.
"""

import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import httpx2

from tests.e2e.operations import ROWS, Access, Json, World, delegation
from tests.fuzz.stack import Inside

REQUEST_SECONDS = 60.0
FRESH_SECONDS = 600.0
"""An access token is used for so long. It would be good for 30 minutes."""

_TOGETHER = {
    "chat/completions": "prompts",
    "embeddings": "prompts",
    "session": "sessions",
    "auth/private-key": "private keys",
}
"""Operations whose callers are one person, by how their paths begin: what they do only makes sense together."""


@dataclass(frozen=True)
class Market:
    """What is on offer: names of an LLM and a model for embeddings, and a bid for the LLM."""

    llm: str
    embedder: str
    bid_id: str = ""


@dataclass
class Person:
    """An account with one API key, and ids of what is its own by kind."""

    email: str
    password: str
    key: str
    access_token: str
    refresh_token: str
    logged_in_at: float
    ids: dict[str, str] = field(default_factory=dict)

    def credential(self, access: Access) -> str | None:
        """What an operation wants to see of who calls it."""
        if access is Access.PUBLIC:
            return None
        return f"Bearer {self.key if access.takes_keys else self.access_token}"

    @property
    def secrets(self) -> list[str]:
        """What no answer may hold but the one that gave it first."""
        return [self.password, self.key]


class People:
    """Everybody there is. `of` an operation is always the same person, until that one is used up."""

    def __init__(self, inside: Inside) -> None:
        self._inside = inside
        self._lock = threading.RLock()
        self._people: dict[str, Person] = {}
        self._http = httpx2.Client(base_url=inside.base_url + "/api/v1/", timeout=REQUEST_SECONDS)
        models = self._ask("GET", "models")["data"]
        kinds = {model["modelType"]: model["id"] for model in models}
        self.market = Market(kinds["LLM"], kinds["EMBEDDING"])
        quote = self._ask(
            "GET", "session/quote", params={"model_id": self.market.llm}, by=f"Bearer {self.of('quotes').key}"
        )
        self.market = replace(self.market, bid_id=quote["bid_id"])

    def close(self) -> None:
        self._http.close()

    def of(self, label: str, *, together: bool = False) -> Person:
        """Return who calls an operation. `together`: the same person calls all operations that end nothing."""
        group = self._group(label, together=together)
        with self._lock:
            person = self._people.get(group)
            if person is None:
                person = self._people[group] = self._new(group)
            elif time.monotonic() - person.logged_in_at > FRESH_SECONDS:
                self._log_in(person)
            return person

    def used_up(self, label: str, *, together: bool = False) -> None:
        """Let somebody else call an operation from now on."""
        with self._lock:
            self._people.pop(self._group(label, together=together), None)

    def world(self, label: str, person: Person) -> World:
        """Return what a request that succeeds is made of."""
        reset = {"reset_token": self._inside.reset_token(person.email)} if label.endswith("/password/reset") else {}
        market = self.market
        return World(
            person.email,
            person.password,
            person.refresh_token,
            person.ids,
            market.llm,
            market.embedder,
            market.bid_id,
            **reset,
        )

    def _group(self, label: str, *, together: bool) -> str:
        if label in ROWS and ROWS[label].ends:
            return label
        if together:
            return "together"
        path = label.partition("/api/v1/")[2]
        alone = "readers" if label.startswith("GET ") else label
        return next((group for start, group in _TOGETHER.items() if path.startswith(start)), alone)

    def _new(self, group: str) -> Person:
        email, password = f"{secrets.token_hex(6)}@example.com", secrets.token_urlsafe(16)
        self._ask("POST", "auth/register", json={"email": email, "password": password})
        person = Person(email, password, "", "", "", 0.0)
        self._log_in(person)
        by = f"Bearer {person.access_token}"
        made = self._ask("POST", "auth/keys", json={"name": "fuzz"}, by=by)
        person.key = made["key"]
        # not the one that he calls with: it may be revoked
        person.ids["key"] = self._ask("POST", "auth/keys", json={"name": "another"}, by=by)["id"]
        wanted = delegation(self._world_of_nobody(person))
        person.ids["delegation"] = self._ask("POST", "auth/delegation", json=wanted, by=by)["id"]
        if group in {"prompts", "sessions", "together"}:
            self._open(person, made["id"])
        return person

    def _open(self, person: Person, key_id: str) -> None:
        """Open a session for each kind of prompt: automation keeps both."""
        by = f"Bearer {person.key}"
        self._ask("PUT", "automation/settings", json={"is_enabled": True}, by=by)
        self._ask("POST", "embeddings", json={"model": self.market.embedder, "input": "hello"}, by=by)
        person.ids["embedding session"] = self._ask("GET", "session", by=by)["session_id"]
        prompt = {"model": self.market.llm, "messages": [{"role": "user", "content": "hello"}]}
        self._ask("POST", "chat/completions", json=prompt, by=by)
        person.ids["chain session"] = self._ask("GET", "session", by=by)["session_id"]
        person.ids["operation"] = self._inside.operation_of(key_id)

    def _log_in(self, person: Person) -> None:
        tokens = self._ask("POST", "auth/login", json={"email": person.email, "password": person.password})
        person.access_token, person.refresh_token = tokens["access_token"], tokens["refresh_token"]
        person.logged_in_at = time.monotonic()

    def _world_of_nobody(self, person: Person) -> World:
        return World(person.email, person.password, person.refresh_token, {}, "", "", "")

    def _ask(
        self,
        method: str,
        path: str,
        *,
        json: Json | None = None,
        params: Mapping[str, str] | None = None,
        by: str | None = None,
    ) -> Any:
        headers = {} if by is None else {"Authorization": by}
        answer = self._http.request(method, path, json=json, params=params, headers=headers)
        if not answer.is_success:
            raise RuntimeError(f"{method} {path} was answered {answer.status_code} {answer.text[:300]}")
        return answer.json()
