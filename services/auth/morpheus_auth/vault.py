"""The private keys of users: each under a data key of its own, which the keyring wraps.

A stored key is kept for its owner and used by nothing yet: the router signs with its own wallet. It never leaves auth.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from morpheus_common.clock import Clock
from morpheus_common.contracts.audit import Actor, AuditAction
from morpheus_common.contracts.vault import (
    PRIVATE_KEY_DELETED,
    PRIVATE_KEY_STORED,
    PrivateKeyChanged,
    PrivateKeyDeleted,
    PrivateKeyStatus,
)
from morpheus_common.errors import ApiError
from morpheus_common.ids import uuid7
from morpheus_common.store.outbox import stage
from pymongo.asynchronous.client_session import AsyncClientSession

from morpheus_auth.accounts import guard_active_user
from morpheus_auth.audit import Audit
from morpheus_auth.documents import PrivateKeyDocument
from morpheus_auth.key_encryption import NONCE_BYTES, KeyEncryption, KeyringError
from morpheus_auth.private_keys import address_of, is_development_key, read_private_key

DATA_KEY_BITS = 256
FIRST_VERSION = 1


def _bound_to(user_id: str, record_id: str, version: int) -> bytes:
    """Return what is authenticated with a private key: the only place where it opens."""
    return f"morpheus-private-key-v1|{user_id}|{record_id}|{version}".encode()


@dataclass(frozen=True, slots=True)
class Vault:
    """`refuse_development_keys`: those that everybody knows. `staged` is called after an event was written."""

    counted_as: ClassVar[str] = "private_key"

    audit: Audit
    keyring: KeyEncryption
    refuse_development_keys: bool
    clock: Clock
    staged: Callable[[], None]

    async def store(self, *, user_id: str, private_key: bytes) -> PrivateKeyStatus:
        """Keep a private key (hex digits as they were sent) instead of any other of this user.

        Raises `ApiError`: validation_error, development_key_refused, invalid_token if the user is gone,
        service_unavailable while the key-encryption key cannot be used; then nothing is changed.
        """
        record = await self._seal(user_id, private_key)

        async def write(session: AsyncClientSession) -> PrivateKeyDocument:
            await self._record(AuditAction.PRIVATE_KEY_STORED, user_id, record.id, session)
            if not await guard_active_user(user_id, "key_guard", session):
                raise ApiError("invalid_token")
            former = await self._remove(user_id, record.created_at, session)
            record.since = record.created_at if former is None else former["since"]
            await record.insert(session=session)
            await stage(
                PRIVATE_KEY_STORED,
                PrivateKeyChanged(record_id=record.id, user_id=user_id),
                entity=record.id,
                version=record.version,
                at=record.created_at,
                session=session,
            )
            return record

        stored = await self.audit.transaction(write, read_back=lambda: PrivateKeyDocument.get(record.id))
        self.staged()
        return _status(stored)

    async def status(self, user_id: str) -> PrivateKeyStatus:
        """Return what may be told of a user's private key; asks no provider."""
        record = await PrivateKeyDocument.find_one({"user_id": user_id})
        return PrivateKeyStatus(has_private_key=False) if record is None else _status(record)

    async def delete(self, user_id: str) -> PrivateKeyDeleted:
        """Delete a user's private key. Raises `ApiError` (private_key_not_found)."""
        now = self.clock()

        async def write(session: AsyncClientSession) -> dict[str, Any] | None:
            former = await self._remove(user_id, now, session)
            if former is not None:
                await self._record(AuditAction.PRIVATE_KEY_DELETED, user_id, former["_id"], session)
            return former

        former = await self.audit.transaction(write)
        if former is None:
            raise ApiError("private_key_not_found")
        self.staged()
        return PrivateKeyDeleted(address=former["address"], deleted_at=now)

    async def erase(self, user_id: str, session: AsyncClientSession) -> int:
        """Delete a user's private key, and with it the wrapped data key, inside the running transaction; without the data
        key no back-up of the record opens. Return how many there were (0 or 1). Nudge the outbox after the commit.
        """
        return int(await self._remove(user_id, self.clock(), session) is not None)

    async def _record(self, action: AuditAction, user_id: str, record_id: str, session: AsyncClientSession) -> None:
        await self.audit.append(
            action, session=session, actor=Actor.USER, subject_user=user_id, facts={"record_id": record_id}
        )

    async def open(self, user_id: str) -> bytes | None:
        """Return a user's private key (32 bytes), None without one. Raises `KeyringError`, `ProviderAway`."""
        record = await PrivateKeyDocument.find_one({"user_id": user_id})
        if record is None:
            return None
        data_key = await self.keyring.unwrap(record.data_key, record_id=record.id)
        bound = _bound_to(record.user_id, record.id, record.version)
        try:
            return AESGCM(data_key).decrypt(record.nonce, record.ciphertext, bound)
        except (InvalidTag, ValueError):
            # ValueError: a key or nonce of a length that cannot be
            raise KeyringError(f"the private key in record {record.id} was changed or is another record's") from None

    async def _seal(self, user_id: str, private_key: bytes) -> PrivateKeyDocument:
        """Make the record; the key in clear is in this frame only, and those it calls."""
        key = read_private_key(private_key)
        address = address_of(key)
        if self.refuse_development_keys and is_development_key(key, address):
            raise ApiError("development_key_refused", param="private_key")
        record_id, now = uuid7(), self.clock()
        data_key, nonce = AESGCM.generate_key(DATA_KEY_BITS), os.urandom(NONCE_BYTES)
        ciphertext = AESGCM(data_key).encrypt(nonce, key, _bound_to(user_id, record_id, FIRST_VERSION))
        # dropped before the provider is asked, which may take seconds; memory cannot be wiped from here
        del key, private_key
        return PrivateKeyDocument(
            id=record_id,
            user_id=user_id,
            data_key=await self.keyring.wrap(data_key, record_id=record_id),
            nonce=nonce,
            ciphertext=ciphertext,
            address=address,
            since=now,
            created_at=now,
            version=FIRST_VERSION,
        )

    async def _remove(self, user_id: str, now: datetime, session: AsyncClientSession) -> dict[str, Any] | None:
        found = await PrivateKeyDocument.get_pymongo_collection().find_one_and_delete(
            {"user_id": user_id}, session=session
        )
        if found is not None:
            await stage(
                PRIVATE_KEY_DELETED,
                PrivateKeyChanged(record_id=found["_id"], user_id=user_id),
                entity=found["_id"],
                version=found["version"] + 1,
                at=now,
                session=session,
            )
        return found


def _status(record: PrivateKeyDocument) -> PrivateKeyStatus:
    return PrivateKeyStatus(
        has_private_key=True, address=record.address, created_at=record.since, updated_at=record.created_at
    )
