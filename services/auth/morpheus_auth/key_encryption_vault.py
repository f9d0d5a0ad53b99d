"""Key-encryption keys in HashiCorp Vault's transit engine: they never leave it.

The key has to be made with `derived=true`: each record's id is then the `context` that Vault derives the real key from,
and what was wrapped for one record opens for no other. `associated_data` would say the same, but Vault's `rewrap` does
not take it (hashicorp/vault issues 29532, 31791); on a key without derivation Vault ignores `context` silently, so the
key is looked at before anything is wrapped.

Rights needed: `read` on `<mount>/keys/<key>`, `update` on `<mount>/encrypt|decrypt|rewrap/<key>`.
"""

import asyncio
import base64
import binascii
import re
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import httpx2
from morpheus_common.logs import get_logger

from morpheus_auth.documents import WrappedSecret
from morpheus_auth.key_encryption import KekVersion, KeyringError, ProviderAway
from morpheus_auth.settings import KEY_NAME_PATTERN, AuthSettings, KekProvider

log = get_logger(__name__)

_TOKEN = re.compile(r"vault:v([0-9]{1,9}):[A-Za-z0-9+/=]+")
_KEY_NAME = re.compile(KEY_NAME_PATTERN)


class VaultKeyEncryption:
    """`token` is asked for each time: an agent beside us may have renewed it. `seconds`: limit of one call."""

    provider = KekProvider.VAULT.value

    def __init__(
        self,
        *,
        address: str,
        mount: str,
        key: str,
        token: Callable[[], str],
        seconds: float,
        namespace: str | None = None,
        ca_file: Path | None = None,
    ) -> None:
        self._key = key
        self._token = token
        self._seconds = seconds
        self._derives = False
        self._client = httpx2.AsyncClient(
            base_url=f"{address.rstrip('/')}/v1/{mount}/",
            headers={"X-Vault-Request": "true"} | ({"X-Vault-Namespace": namespace} if namespace else {}),
            timeout=seconds,
            verify=ssl.create_default_context(cafile=ca_file) if address.startswith("https:") else False,
            # no proxy and no certificates of the environment: keys pass here
            trust_env=False,
        )

    @classmethod
    def of(cls, address: str, settings: AuthSettings) -> Self:
        """Return the provider at `address` as the settings describe it."""
        file, given = settings.auth_vault_token_file, settings.auth_vault_token

        def token() -> str:
            if file is not None:
                return file.read_text().strip()
            return given.get_secret_value() if given is not None else ""

        return cls(
            address=address,
            mount=settings.auth_vault_mount,
            key=settings.auth_vault_key,
            token=token,
            seconds=settings.auth_kek_seconds,
            namespace=settings.auth_vault_namespace,
            ca_file=settings.auth_vault_ca_file,
        )

    async def wrap(self, secret: bytes, *, record_id: str) -> WrappedSecret:
        """Let Vault encrypt. Raises `ProviderAway`, `KeyringError` for a key that does not bind to records."""
        if not self._derives:
            await self.versions()
        plaintext = base64.b64encode(secret).decode()
        response = await self._ask("POST", "encrypt", self._key, record_id, plaintext=plaintext)
        if response.status_code != 200:
            raise _refused(response, "encrypt")
        return self._wrapped(response)

    async def unwrap(self, wrapped: WrappedSecret, *, record_id: str) -> bytes:
        """Let Vault decrypt. Raises `ProviderAway`, `KeyringError`."""
        response = await self._open("decrypt", wrapped, record_id)
        try:
            return base64.b64decode(_data(response)["plaintext"], validate=True)
        except (KeyError, TypeError, binascii.Error):
            raise _unreadable() from None

    async def rewrap(self, wrapped: WrappedSecret, *, record_id: str) -> WrappedSecret:
        """Let Vault wrap anew without showing us what. A key of another name is left by way of the plaintext."""
        if wrapped.key != self._key:
            return await self.wrap(await self.unwrap(wrapped, record_id=record_id), record_id=record_id)
        return self._wrapped(await self._open("rewrap", wrapped, record_id))

    async def versions(self) -> list[KekVersion]:
        """Ask Vault which versions decrypt. Raises `ProviderAway`, `KeyringError` for a key that binds nothing."""
        response = await self._ask("GET", "keys", self._key)
        if response.status_code != 200:
            raise _refused(response, "keys")
        data = _data(response)
        if data.get("derived") is not True:
            raise KeyringError(
                f"Vault's key {self._key} was made without derived=true and would open any record: make another key"
            )
        self._derives = True
        try:
            latest, least = int(data["latest_version"]), int(data["min_decryption_version"])
        except (KeyError, TypeError, ValueError):
            raise _unreadable() from None
        return [KekVersion(self.provider, self._key, version) for version in range(latest, least - 1, -1)]

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _open(self, verb: str, wrapped: WrappedSecret, record_id: str) -> httpx2.Response:
        try:
            ciphertext = wrapped.ciphertext.decode("ascii")
        except UnicodeDecodeError:
            raise _does_not_open(wrapped, record_id) from None
        # the name comes from the database and must not lead to another place in Vault
        if _KEY_NAME.fullmatch(wrapped.key) is None:
            raise _does_not_open(wrapped, record_id)
        response = await self._ask("POST", verb, wrapped.key, record_id, ciphertext=ciphertext)
        if response.status_code == 400:
            raise _does_not_open(wrapped, record_id)
        if response.status_code != 200:
            raise _refused(response, verb)
        return response

    async def _ask(
        self, method: str, verb: str, key: str, record_id: str | None = None, **fields: str
    ) -> httpx2.Response:
        if record_id is not None:
            fields["context"] = base64.b64encode(record_id.encode()).decode()
        try:
            async with asyncio.timeout(self._seconds):
                return await self._client.request(
                    method, f"{verb}/{key}", json=fields or None, headers={"X-Vault-Token": self._token()}
                )
        except (httpx2.HTTPError, TimeoutError, OSError, UnicodeError) as error:
            log.warning("Vault cannot be asked", verb=verb, problem=type(error).__name__)
            raise ProviderAway from None

    def _wrapped(self, response: httpx2.Response) -> WrappedSecret:
        ciphertext = _data(response).get("ciphertext")
        match = _TOKEN.fullmatch(ciphertext) if isinstance(ciphertext, str) else None
        if match is None:
            raise _unreadable()
        return WrappedSecret(
            provider=self.provider, key=self._key, key_version=int(match[1]), ciphertext=match[0].encode()
        )


def _data(response: httpx2.Response) -> dict[str, Any]:
    try:
        data = response.json()["data"]
    except (ValueError, KeyError, TypeError):
        data = None
    if not isinstance(data, dict):
        raise _unreadable()
    return data


def _unreadable() -> ProviderAway:
    log.error("Vault's answer is none of its transit engine")
    return ProviderAway()


def _refused(response: httpx2.Response, verb: str) -> ProviderAway:
    # 403: token or policy; 404: no such key or mount; 5xx: sealed, standby, overloaded
    log.error("Vault refuses", verb=verb, status=response.status_code)
    return ProviderAway()


def _does_not_open(wrapped: WrappedSecret, record_id: str) -> KeyringError:
    return KeyringError(
        f"Vault does not open record {record_id}, wrapped by version {wrapped.key_version} of {wrapped.key!r}: another "
        "record's, changed, or older than min_decryption_version"
    )
