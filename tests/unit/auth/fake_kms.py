"""AWS KMS, as much of it as auth asks (JSON 1.1 over HTTP), behind a real socket. Signatures are not checked."""

import asyncio
import base64
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.unit.auth.fake_vault import served

ARN = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
ACCESS_KEY = "AKIAEXAMPLEEXAMPLE00"
SECRET_KEY = "a planted AWS secret key"


class FakeKms:
    """One key with one material or more; the last one is current."""

    def __init__(self) -> None:
        self.address = ""
        self.materials = {os.urandom(32).hex(): os.urandom(32)}
        self.error: str | None = None
        self.silent = False
        self.asked: list[str] = []
        self.hang = asyncio.Event()

    @property
    def current(self) -> str:
        return list(self.materials)[-1]

    def rotate(self) -> None:
        self.materials[os.urandom(32).hex()] = os.urandom(32)

    async def handle(self, request: web.Request) -> web.Response:
        operation = request.headers["X-Amz-Target"].removeprefix("TrentService.")
        self.asked.append(operation)
        if self.silent:
            await self.hang.wait()
        if self.error is not None:
            return _refused(self.error)
        assert ACCESS_KEY in request.headers["Authorization"]
        body = json.loads(await request.read())
        try:
            answer = self._answer(operation, body)
        except (InvalidTag, ValueError, KeyError):
            return _refused("InvalidCiphertextException")
        return web.json_response(answer, content_type="application/x-amz-json-1.1")

    def _answer(self, operation: str, body: dict[str, Any]) -> dict[str, Any]:
        if operation == "DescribeKey":
            return {"KeyMetadata": {"KeyId": ARN[-36:], "Arn": ARN, "CurrentKeyMaterialId": self.current}}
        if operation == "Encrypt":
            plaintext = base64.b64decode(body["Plaintext"])
            return {"KeyId": ARN, "CiphertextBlob": self._encrypt(plaintext, body["EncryptionContext"])}
        blob = base64.b64decode(body["CiphertextBlob"])
        if operation == "Decrypt":
            assert body["KeyId"] == ARN
            plaintext = self._decrypt(blob, body["EncryptionContext"])
            return {"KeyId": ARN, "Plaintext": base64.b64encode(plaintext).decode()}
        assert operation == "ReEncrypt"
        plaintext = self._decrypt(blob, body["SourceEncryptionContext"])
        return {"KeyId": ARN, "CiphertextBlob": self._encrypt(plaintext, body["DestinationEncryptionContext"])}

    def _encrypt(self, plaintext: bytes, context: dict[str, str]) -> str:
        nonce = os.urandom(12)
        sealed = AESGCM(self.materials[self.current]).encrypt(nonce, plaintext, _canonical(context))
        return base64.b64encode(bytes.fromhex(self.current) + nonce + sealed).decode()

    def _decrypt(self, blob: bytes, context: dict[str, str]) -> bytes:
        material = self.materials[blob[:32].hex()]
        return AESGCM(material).decrypt(blob[32:44], blob[44:], _canonical(context))


def _canonical(context: dict[str, str]) -> bytes:
    return json.dumps(context, sort_keys=True).encode()


def _refused(code: str) -> web.Response:
    body = {"__type": code, "message": "of the fake"}
    return web.json_response(body, status=400, content_type="application/x-amz-json-1.1")


@asynccontextmanager
async def fake_kms() -> AsyncIterator[FakeKms]:
    kms = FakeKms()
    app = web.Application()
    app.router.add_post("/", kms.handle)
    async with served(app) as kms.address:
        yield kms
        kms.hang.set()
