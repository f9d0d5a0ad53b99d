"""HashiCorp Vault's transit engine, as much of it as auth asks, behind a real socket."""

import asyncio
import base64
import hashlib
import hmac
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

TOKEN = "a planted Vault token"


class FakeVault:
    """Keys by name, each with versions. A derived key is another one for each `context`; others ignore it."""

    def __init__(self) -> None:
        self.address = ""
        self.token = TOKEN
        self.keys = {"morpheus-auth": [os.urandom(32)], "flat": [os.urandom(32)]}
        self.derived = {"morpheus-auth"}
        self.min_decryption_version = 1
        self.status: int | None = None
        self.answer: Any = None
        self.silent = False
        self.asked: list[str] = []
        self.hang = asyncio.Event()

    def rotate(self) -> None:
        self.keys["morpheus-auth"].append(os.urandom(32))

    async def handle(self, request: web.Request) -> web.Response:
        verb, name = request.match_info["verb"], request.match_info["name"]
        self.asked.append(verb)
        if self.silent:
            await self.hang.wait()
        if self.status is not None:
            return web.json_response({"errors": [f"of {request.path}"]}, status=self.status)
        if request.headers.get("X-Vault-Token") != self.token:
            return web.json_response({"errors": ["permission denied"]}, status=403)
        if self.answer is not None:
            return web.json_response(self.answer)
        if name not in self.keys:
            return web.json_response({"errors": []}, status=404)
        if verb == "keys":
            data = {
                "latest_version": len(self.keys[name]),
                "min_decryption_version": self.min_decryption_version,
                "derived": name in self.derived,
            }
            return web.json_response({"data": data})
        body = await request.json()
        context = base64.b64decode(body["context"])
        try:
            if verb == "encrypt":
                answer = {"ciphertext": self._encrypt(name, context, base64.b64decode(body["plaintext"]))}
            else:
                plaintext = self._decrypt(name, context, body["ciphertext"])
                if verb == "decrypt":
                    answer = {"plaintext": base64.b64encode(plaintext).decode()}
                else:
                    answer = {"ciphertext": self._encrypt(name, context, plaintext)}
        except (InvalidTag, ValueError):
            return web.json_response({"errors": ["cipher: message authentication failed"]}, status=400)
        return web.json_response({"data": answer})

    def _aes(self, name: str, version: int, context: bytes) -> AESGCM:
        key = self.keys[name][version - 1]
        return AESGCM(hmac.digest(key, context, hashlib.sha256) if name in self.derived else key)

    def _encrypt(self, name: str, context: bytes, plaintext: bytes) -> str:
        version, nonce = len(self.keys[name]), os.urandom(12)
        sealed = nonce + self._aes(name, version, context).encrypt(nonce, plaintext, None)
        return f"vault:v{version}:{base64.b64encode(sealed).decode()}"

    def _decrypt(self, name: str, context: bytes, ciphertext: str) -> bytes:
        vendor, version, encoded = ciphertext.split(":")
        if vendor != "vault" or int(version[1:]) < self.min_decryption_version:
            raise ValueError(version)
        sealed = base64.b64decode(encoded, validate=True)
        return self._aes(name, int(version[1:]), context).decrypt(sealed[:12], sealed[12:], None)


@asynccontextmanager
async def fake_vault() -> AsyncIterator[FakeVault]:
    vault = FakeVault()
    app = web.Application()
    app.router.add_route("*", "/v1/transit/{verb}/{name}", vault.handle)
    async with served(app) as vault.address:
        try:
            yield vault
        finally:
            vault.hang.set()


@asynccontextmanager
async def served(app: web.Application) -> AsyncIterator[str]:
    """Serve an application on a free port of the loopback and yield its address."""
    # aiohttp takes 0 for "without an end"
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
