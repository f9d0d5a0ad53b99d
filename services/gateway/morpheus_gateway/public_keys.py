"""Auth's public keys: what access tokens are verified with, and what secrets are sealed to."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from jwt.algorithms import OKPAlgorithm
from jwt.exceptions import InvalidKeyError
from morpheus_common.bus.rpc import RpcClient
from morpheus_common.contracts.auth import PUBLIC_KEYS, PublicKeysQuestion
from morpheus_common.errors import ApiError
from morpheus_common.logs import get_logger
from morpheus_common.sealing import public_key_from_text

log = get_logger(__name__)

REFRESH_SECONDS = 5.0
"""A small question, answered from memory. A new key is published for minutes before it signs; a key that others may have is
withdrawn at once, and so is forgotten here within this time."""
FIRST_RETRY_SECONDS = 0.5
STALE_SECONDS = 30.0
"""No token is verified with an older copy: it could still hold a key that was withdrawn, or lack the one that signs."""
MIN_PAUSE_SECONDS = 3.0
"""Seals that auth cannot open must not make us ask it more often than this."""


class PublicKeys:
    """A copy of auth's public keys, kept fresh in the background."""

    def __init__(self, rpc: RpcClient) -> None:
        self._rpc = rpc
        self._signing: Mapping[str, Ed25519PublicKey] = {}
        self._sealing: X25519PublicKey | None = None
        self._jwks: dict[str, Any] | None = None
        self._asked_at = self._copied_at = float("-inf")
        self._lock = asyncio.Lock()

    @property
    def loaded(self) -> bool:
        """Tell whether there is a copy at all."""
        return self._jwks is not None

    @property
    def jwks(self) -> dict[str, Any]:
        """The JSON Web Key Set as auth publishes it. Raises `service_unavailable` before the first copy."""
        if self._jwks is None:
            raise ApiError("service_unavailable", retry_after=1)
        return self._jwks

    def signing_key(self, key_id: str) -> Ed25519PublicKey | None:
        """Return the key a token names, None if auth does not have it.

        Asks nobody: auth publishes a key long before it signs with it, so that a key we do not know is none. Raises
        `service_unavailable` without a copy that is fresh enough to say so.
        """
        if time.monotonic() - self._copied_at > STALE_SECONDS:
            raise ApiError("service_unavailable", retry_after=1)
        return self._signing.get(key_id)

    async def sealing_key(self) -> X25519PublicKey:
        """Return what secrets for auth are sealed to."""
        if self._sealing is None:
            await self.renew()
        if self._sealing is None:
            raise ApiError("service_unavailable", retry_after=1)
        return self._sealing

    async def renew(self) -> None:
        """Ask auth, unless it was asked a moment ago. Keeps the old copy if auth does not answer."""
        async with self._lock:
            if time.monotonic() - self._asked_at >= MIN_PAUSE_SECONDS:
                self._asked_at = time.monotonic()
                await self._fetch()

    async def keep_fresh(self) -> None:
        """Renew the copy for ever (a background job)."""
        while True:
            async with self._lock:
                self._asked_at = time.monotonic()
                await self._fetch()
            await asyncio.sleep(REFRESH_SECONDS if self.loaded else FIRST_RETRY_SECONDS)

    async def _fetch(self) -> None:
        try:
            answer = await self._rpc.call(PUBLIC_KEYS, PublicKeysQuestion(), timeout=2.0)
            sealing = public_key_from_text(answer.sealing_key)
        except ApiError as error:
            log.warning("auth's public keys are not to be had", code=error.code)
            return
        except ValueError:
            log.error("auth's sealing key cannot be read")
            return
        self._signing = _signing_keys(answer.jwks)
        self._sealing = sealing
        self._copied_at = self._asked_at
        self._jwks = answer.jwks


def _signing_keys(jwks: Mapping[str, Any]) -> dict[str, Ed25519PublicKey]:
    keys = {}
    for entry in jwks.get("keys", []):
        try:
            key = OKPAlgorithm.from_jwk(entry)
            key_id = entry["kid"]
        except (InvalidKeyError, KeyError, TypeError) as error:
            log.warning("a key of auth cannot be used", problem=type(error).__name__)
            continue
        if isinstance(key, Ed25519PublicKey) and isinstance(key_id, str):
            keys[key_id] = key
    return keys
