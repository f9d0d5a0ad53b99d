"""What a user does, in an order that has every service speak to every other: raises `AssertionError` at what is not so."""

import json
import secrets
from dataclasses import dataclass
from typing import Any

import httpx2
from morpheus_devstack.waiting import poll

PATIENCE_SECONDS = 30.0
WORDS = "hello from a user"
"""The simulated provider says again what it was asked."""


@dataclass(frozen=True)
class Person:
    """A user with automation off and a key, made by some version, to be served by others."""

    email: str
    password: str
    key: str
    model: str


class Traveller:
    """One user at one gateway."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self._http = http

    async def ask(
        self, method: str, path: str, status: int, *, token: str | None = None, **options: Any
    ) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        answer = await self._http.request(method, path, headers=headers, **options)
        assert answer.status_code == status, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer

    async def _login(self, email: str, password: str) -> dict[str, str]:
        body = {"email": email, "password": password}
        tokens: dict[str, str] = (await self.ask("POST", "auth/login", 200, json=body)).json()
        return tokens

    async def _key(self, token: str) -> tuple[str, str]:
        made = (await self.ask("POST", "auth/keys", 201, token=token, json={"name": "versions"})).json()
        return made["key"], made["id"]

    async def chat(self, key: str, model: str) -> None:
        """Send a prompt in both modes."""
        body = {"model": model, "messages": [{"role": "user", "content": WORDS}]}
        answered = (await self.ask("POST", "chat/completions", 200, token=key, json=body)).json()
        assert WORDS in answered["choices"][0]["message"]["content"], answered
        streamed = await self.ask("POST", "chat/completions", 200, token=key, json={**body, "stream": True})
        events = [line.removeprefix("data: ") for line in streamed.text.splitlines() if line.startswith("data: ")]
        assert events[-1] == "[DONE]", events
        chunks = [json.loads(event) for event in events[:-1]]
        said = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"])
        assert WORDS in said, events

    async def journey(self) -> Person:
        """Register, use all that there is, and leave but for the account that is returned."""
        email, password = f"{secrets.token_hex(6)}@example.com", secrets.token_urlsafe(16)
        await self.ask("POST", "auth/register", 201, json={"email": email, "password": password})
        tokens = await self._login(email, password)
        refreshed = await self.ask("POST", "auth/refresh", 200, json={"refresh_token": tokens["refresh_token"]})
        token = refreshed.json()["access_token"]
        models = (await self.ask("GET", "models", 200)).json()["data"]
        model = next(item["id"] for item in models if item["modelType"] == "LLM")
        embedder = next(item["id"] for item in models if item["modelType"] == "EMBEDDING")
        key, _ = await self._key(token)
        await self.ask("PUT", "automation/settings", 200, token=token, json={"is_enabled": False})
        await self._by_hand(key, model)
        await self._automatically(token, model, embedder)
        await self._gone()
        return Person(email, password, key, model)

    async def _by_hand(self, key: str, model: str) -> None:
        """Open a session, prompt, ask about it, close it; and open another that stays."""
        await self.ask("GET", "session/quote", 200, token=key, params={"model_id": model})
        opened = (await self.ask("POST", "session/modelsession", 200, token=key, params={"model_id": model})).json()
        await self.chat(key, model)
        await self.ask("POST", "session/pingsession", 200, token=key)
        current = (await self.ask("GET", "session", 200, token=key)).json()
        assert current["session_id"] == opened["session_id"], current
        await self.ask("POST", "session/closesession", 200, token=key)
        await self.ask("POST", "session/modelsession", 200, token=key, params={"model_id": model})
        await self.chat(key, model)

    async def _automatically(self, token: str, model: str, embedder: str) -> None:
        """Have sessions opened by a prompt; then end the key, and with it its session."""
        await self.ask("PUT", "automation/settings", 200, token=token, json={"is_enabled": True})
        key, key_id = await self._key(token)
        await self.chat(key, model)
        await self.ask("POST", "embeddings", 200, token=key, json={"model": embedder, "input": "hello"})
        decided = (await self.ask("GET", "automation/decisions", 200, token=key)).json()
        assert decided[-1]["decision"] == "open", decided
        await self._recorded(token)
        await self.ask("DELETE", f"auth/keys/{key_id}", 200, token=token)

        async def refused() -> bool:
            answer = await self._http.get("session", headers={"Authorization": f"Bearer {key}"})
            return answer.status_code == 401

        assert await poll(refused, seconds=PATIENCE_SECONDS, every=0.1), "an ended key still counts"

    async def _recorded(self, token: str) -> None:
        async def recorded() -> bool:
            used = (await self.ask("GET", "usage", 200, token=token)).json()
            return bool(used["totals"]["requests"])

        assert await poll(recorded, seconds=PATIENCE_SECONDS, every=0.1), "usage is not recorded"

    async def _gone(self) -> None:
        """Make an account and delete it: auth asks sessions and automation to erase what they have."""
        email, password = f"{secrets.token_hex(6)}@example.com", secrets.token_urlsafe(16)
        await self.ask("POST", "auth/register", 201, json={"email": email, "password": password})
        token = (await self._login(email, password))["access_token"]
        await self.ask("PUT", "automation/settings", 200, token=token, json={"is_enabled": True})
        await self.ask("DELETE", "auth/register", 200, token=token)
        await self.ask("POST", "auth/login", 401, json={"email": email, "password": password})

    async def again(self, person: Person) -> None:
        """Come back with what another version made: password, key, and the session that is open."""
        await self._login(person.email, person.password)
        current = (await self.ask("GET", "session", 200, token=person.key)).json()
        assert current["session_id"], current
        await self.chat(person.key, person.model)
