"""A user of the gateway with one key, and what he asks for. Every call has a time limit."""

import asyncio
import secrets
from dataclasses import dataclass, field
from typing import Any, Self

import httpx2
from morpheus_devstack.waiting import poll

SETUP_SECONDS = 20.0
PAUSE_SECONDS = 0.1
DURATION = 3_600


@dataclass
class Tenant:
    """`asked` counts the opens that were asked for, each of which may become an operation. `canary` stands in each of his
    prompts, and in nobody else's.
    """

    http: httpx2.AsyncClient
    by_token: dict[str, str]
    key: str
    key_id: str
    asked: int = 0
    canary: str = field(default_factory=lambda: f"canary-{secrets.token_hex(8)}")

    @classmethod
    async def new(cls, http: httpx2.AsyncClient) -> Self:
        """Make a user and a key; tried again while a part of the stack comes back."""
        email, password = f"{secrets.token_hex(6)}@example.com", secrets.token_urlsafe(16)
        body = {"email": email, "password": password}
        await _insist(http, "auth/register", json=body)
        tokens = await _insist(http, "auth/login", json=body)
        by_token = {"Authorization": f"Bearer {tokens['access_token']}"}
        made = await _insist(http, "auth/keys", json={"name": "sweep"}, headers=by_token)
        return cls(http, by_token, made["key"], made["id"])

    @property
    def by_key(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    async def open(self, bid_id: str, *, seconds: int = DURATION) -> httpx2.Response | None:
        """Ask for a session on a bid; None if the connection broke."""
        self.asked += 1
        body = {"sessionDuration": seconds}
        return await self._post(f"session/bidsession?bid_id={bid_id}", json=body, headers=self.by_key)

    async def close(self) -> httpx2.Response | None:
        return await self._post("session/closesession", headers=self.by_key)

    async def chat(self, model: str, *, stream: bool = False) -> httpx2.Response | None:
        body = {"model": model, "stream": stream, "messages": [{"role": "user", "content": f"say {self.canary}"}]}
        return await self._post("chat/completions", json=body, headers=self.by_key)

    async def revoke(self) -> bool:
        """Deactivate the key; tell whether that was confirmed."""

        async def is_done() -> bool:
            try:
                answer = await self.http.delete(f"auth/keys/{self.key_id}", headers=self.by_token, timeout=5)
            except httpx2.HTTPError:
                return False
            return answer.status_code == 200

        return await poll(is_done, seconds=SETUP_SECONDS, every=PAUSE_SECONDS)

    async def status_of_key(self) -> int:
        """What the key is answered; 0 if the connection broke."""
        try:
            return (await self.http.get("session", headers=self.by_key, timeout=5)).status_code
        except httpx2.HTTPError:
            return 0

    async def _post(self, path: str, **options: Any) -> httpx2.Response | None:
        try:
            return await self.http.post(path, **options)
        except httpx2.HTTPError:
            return None


async def _insist(http: httpx2.AsyncClient, path: str, **options: Any) -> Any:
    """Post until it works. Raises `RuntimeError` when it does not."""
    until = asyncio.get_running_loop().time() + SETUP_SECONDS
    while True:
        said = "no answer"
        try:
            answer = await http.post(path, timeout=5, **options)
            if answer.is_success:
                return answer.json()
            said = f"{answer.status_code} {answer.text[:200]}"
        except httpx2.HTTPError as error:
            said = repr(error)
        if asyncio.get_running_loop().time() > until:
            raise RuntimeError(f"{path} does not work: {said}")
        await asyncio.sleep(PAUSE_SECONDS)
