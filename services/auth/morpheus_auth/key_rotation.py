"""How one signing key follows another: made, read again and again, and deleted when nobody may use it any more.

A rotation is one insert (in one transaction with its entry in the audit log), which says for all time what becomes of the keys before it. There is no step at which it could
stop half-way, and of two operators at once one meets the unique generation of the other.
"""

import asyncio
import time
from datetime import datetime
from typing import Any

import pymongo
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from morpheus_common.clock import Clock
from morpheus_common.contracts.audit import Actor, AuditAction
from morpheus_common.contracts.signing_keys import SigningKeyRows, SigningKeyState
from morpheus_common.errors import ApiError
from morpheus_common.ids import uuid7
from morpheus_common.logs import get_logger
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import DuplicateKeyError, PyMongoError

from morpheus_auth.audit import Audit
from morpheus_auth.documents import SigningKeyDocument, WrappedSecret
from morpheus_auth.key_encryption import ProviderAway
from morpheus_auth.keyring import Keyring, KeyringError
from morpheus_auth.service_keys import find_or_create
from morpheus_auth.signing import KeyTimes, SigningKeys, live_keys

log = get_logger(__name__)

PUBLISHED_SECONDS = 180
"""How long a new key is published before it signs. A gateway uses no copy older than 30 s, filled by a process of ours
whose copy was at most 20 s old; the rest is for those who read the JWKS over HTTP, where it may be kept for a minute."""
OVERLAP_SECONDS = 300
"""How long a key is accepted after its last token should have expired: the leeway of those who verify (30 s), a process
that learned late of the new key (20 s), and clocks that are off."""
REREAD_SECONDS = 2.0
READ_LIMIT_SECONDS = 5.0
_ATTEMPTS = 5
"""Each but the last is lost to another operator at the same moment."""


class KeyRotation:
    """Keeps the signing keys of the database and this process's copy of them. `token_lifetime` in seconds."""

    def __init__(self, keyring: Keyring, keys: SigningKeys, *, token_lifetime: int) -> None:
        self._keyring = keyring
        self._keys = keys
        self._token_lifetime = token_lifetime

    async def load(self, clock: Clock) -> None:
        """Read the keys; make the first one if there is none. Raises `KeyringError` if one cannot be opened."""
        await find_or_create(SigningKeyDocument, self._keyring, _generate, clock)
        await self.read()

    async def keep_fresh(self) -> None:
        """Read the keys for ever (a background job). Without the database the copy grows stale and is no longer used."""
        while True:
            await asyncio.sleep(REREAD_SECONDS)
            try:
                with pymongo.timeout(READ_LIMIT_SECONDS):
                    await self.read()
            except (PyMongoError, KeyringError, ProviderAway) as error:
                log.warning("signing keys not read", problem=str(error) or type(error).__name__)

    async def read(self) -> SigningKeyRows:
        """Read the keys and delete those that are withdrawn. Raises `KeyringError` if one cannot be opened."""
        asked_at = time.monotonic()
        # one answer holds the keys and the database's time that they are to be held against
        found: list[dict[str, Any]] = await (
            await SigningKeyDocument.get_pymongo_collection().aggregate([{"$set": {"now": "$$NOW"}}])
        ).to_list()
        now: datetime = found[0]["now"]
        documents = [SigningKeyDocument.model_validate(document) for document in found]
        times = [KeyTimes(key.id, key.generation, key.created_at, key.signs_from, key.older_until) for key in documents]
        live = live_keys(times, now)
        kids = {key.kid for key in live}
        private_keys = {
            key.id: self._keys.known.get(key.id) or await self._open(key.id, key.private_key)
            for key in documents
            if key.id in kids
        }
        self._keys.learn(times, private_keys, database_time=now, asked_at=asked_at)
        withdrawn = [key.kid for key in times if key.kid not in kids]
        if withdrawn:
            # no time in a document ever changes: what is withdrawn stays so
            await SigningKeyDocument.get_pymongo_collection().delete_many({"_id": {"$in": withdrawn}})
            log.info("signing keys withdrawn and deleted", kids=withdrawn)
        return SigningKeyRows(keys=live, now=now)

    async def _open(self, kid: str, wrapped: WrappedSecret) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(await self._keyring.unwrap(wrapped, record_id=kid))

    async def rotate(self, audit: Audit, *, revoke: str | None = None) -> SigningKeyRows:
        """Make a new key, unless what the operator wants has been done; return all keys.

        Without `revoke` the new key is published now and signs later. With it (a `kid`) the new key signs at once, and that
        key and all older ones are withdrawn: nobody knows what else leaked with it. Raises `ApiError` (service_unavailable)
        and `KeyringError`.
        """
        for _ in range(_ATTEMPTS):
            there = await self.read()
            if revoke is None and any(key.state is SigningKeyState.PUBLISHED for key in there.keys):
                return there
            if revoke is not None and revoke not in {key.kid for key in there.keys}:
                return there
            try:
                await self._insert(audit, there.keys[0].generation + 1, at_once=revoke is not None)
            except DuplicateKeyError:
                continue
            return await self.read()
        raise ApiError("service_unavailable", retry_after=1)

    async def _insert(self, audit: Audit, generation: int, *, at_once: bool) -> None:
        """Make a key, and write so into the audit log. Raises `DuplicateKeyError` if somebody else has just made one of this generation."""
        kid = uuid7()
        wrapped = await self._keyring.wrap(_generate(), record_id=kid)
        signs_after = 0 if at_once else PUBLISHED_SECONDS
        older_after = 0 if at_once else PUBLISHED_SECONDS + self._token_lifetime + OVERLAP_SECONDS
        made = {
            "generation": generation,
            "private_key": {"$literal": wrapped.model_dump()},
            "created_at": "$$NOW",
            "signs_from": _seconds_from_now(signs_after),
            "older_until": _seconds_from_now(older_after),
        }

        async def write(session: AsyncClientSession) -> None:
            await audit.append(
                AuditAction.SIGNING_KEY_ROTATED,
                session=session,
                actor=Actor.OPERATOR,
                subject_user=None,
                facts={"kid": kid, "withdraws_older": at_once},
            )
            # an insert cannot ask the database for its time, an upsert of a new id can
            await SigningKeyDocument.get_pymongo_collection().update_one(
                {"_id": kid}, [{"$set": made}], upsert=True, session=session
            )

        await audit.transaction(write)
        log.warning("new signing key", kid=kid, withdraws_older=at_once)


def _generate() -> bytes:
    return Ed25519PrivateKey.generate().private_bytes_raw()


def _seconds_from_now(seconds: int) -> dict[str, Any]:
    return {"$dateAdd": {"startDate": "$$NOW", "unit": "second", "amount": seconds}}
