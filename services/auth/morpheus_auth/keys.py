"""API keys: made by the gateway, known here by a keyed hash of their SHA-256 only."""

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from morpheus_common.clock import Clock
from morpheus_common.contracts.audit import Actor, AuditAction
from morpheus_common.contracts.auth import (
    KEY_CHANGED,
    KEY_CREATED,
    KEY_DEACTIVATED,
    KEY_ROTATED,
    Caller,
    ChangeKey,
    CreateKey,
    KeyChanged,
    KeyField,
    KeyRow,
    RotatedKey,
    RotateKey,
    Scope,
)
from morpheus_common.contracts.base import EventType
from morpheus_common.errors import ApiError
from morpheus_common.store.outbox import stage
from pymongo import ReturnDocument, UpdateOne
from pymongo.asynchronous.client_session import AsyncClientSession

from morpheus_auth.accounts import guard_active_user
from morpheus_auth.audit import Audit
from morpheus_auth.deferred_writes import DeferredWrites
from morpheus_auth.documents import NOT_EXPIRED_IF_EVER, ApiKeyDocument, KeySecret, UserDocument
from morpheus_auth.versioned_secrets import VersionedSecrets

MAX_SECRETS = 5
"""Secrets of one key that work at the same time: each is an entry of an index."""

_USABLE = {"is_active": True, "$expr": NOT_EXPIRED_IF_EVER}
"""Neither revoked nor expired, by the database's clock."""
_CALLER_FIELDS = {"user_id": 1, "key_prefix": 1, "scopes": 1, "allowed_models": 1, "secrets": 1}


def digest_of(sha256: str, pepper: bytes) -> str:
    """Return what a key is looked up by. `sha256` is the hex SHA-256 of the key.

    The look-up is by index, which takes no secret's time: without the pepper nobody can aim at a digest.
    """
    return hmac.new(pepper, bytes.fromhex(sha256), hashlib.sha256).hexdigest()


@dataclass(frozen=True, slots=True)
class ApiKeys:
    """`max_active` keys a user. `staged` is called after an event was written, `after_checks` takes what a check leaves to
    be written.
    """

    audit: Audit
    peppers: VersionedSecrets
    max_active: int
    clock: Clock
    staged: Callable[[], None]
    after_checks: DeferredWrites

    async def create(self, wanted: CreateKey) -> KeyRow:
        """Record a key; the same key of the same user again is that record.

        Raises `ApiError`: key_limit_reached, invalid_token if the user is gone, validation_error.
        """
        now = self.clock()
        _require_future(wanted.expires_at, now)
        secret = self._secret(wanted.sha256)
        key = ApiKeyDocument(
            user_id=wanted.user_id,
            key_prefix=wanted.key_prefix,
            secrets=[secret],
            name=wanted.name,
            created_at=now,
            expires_at=wanted.expires_at,
            scopes=list(Scope) if wanted.scopes is None else list(dict.fromkeys(wanted.scopes)),
            allowed_models=wanted.allowed_models,
        )

        async def write(session: AsyncClientSession) -> ApiKeyDocument:
            if not await guard_active_user(key.user_id, "key_guard", session):
                raise ApiError("invalid_token")
            again = await ApiKeyDocument.find_one(
                {"secrets.digest": secret.digest, "user_id": key.user_id}, session=session
            )
            if again is not None:
                return again
            active = await ApiKeyDocument.find({"user_id": key.user_id, **_USABLE}, session=session).count()
            if active >= self.max_active:
                raise ApiError("key_limit_reached")
            await self._record(AuditAction.KEY_CREATED, key.user_id, key.id, session)
            await key.insert(session=session)
            await _stage(KEY_CREATED, key, now, session)
            return key

        made = await self.audit.transaction(write, read_back=lambda: ApiKeyDocument.get(key.id))
        self.staged()
        return _row(made)

    async def list_of(self, user_id: str) -> list[KeyRow]:
        """Return all keys of a user, newest first."""
        return [_row(key) async for key in ApiKeyDocument.find({"user_id": user_id}).sort("-_id")]

    async def get(self, *, user_id: str, key_id: str) -> KeyRow:
        """Return a key of the user's. Raises `ApiError` (key_not_found)."""
        key = await ApiKeyDocument.find_one({"_id": key_id, "user_id": user_id})
        if key is None:
            raise ApiError("key_not_found")
        return _row(key)

    async def _record(self, action: AuditAction, user_id: str, key_id: str, session: AsyncClientSession) -> None:
        await self.audit.append(
            action, session=session, actor=Actor.USER, subject_user=user_id, facts={"key_id": key_id}
        )

    async def change(self, wanted: ChangeKey) -> KeyRow:
        """Change what is named of a key that is usable: none comes back to life by this.

        Raises `ApiError`: key_not_found, key_inactive, validation_error.
        """
        now = self.clock()
        if KeyField.EXPIRES_AT in wanted.fields:
            _require_future(wanted.expires_at, now)
        if KeyField.SCOPES in wanted.fields and not wanted.scopes:
            raise ApiError("validation_error", "Give at least one scope, or leave scopes out.", param="scopes")
        changes = {field.value: getattr(wanted, field.value) for field in wanted.fields}

        async def write(session: AsyncClientSession) -> ApiKeyDocument:
            await self._record(AuditAction.KEY_CHANGED, wanted.user_id, wanted.key_id, session)
            key = await _update_usable(
                wanted.user_id, wanted.key_id, {"$set": changes, "$inc": {"version": 1}}, session
            )
            await _stage(KEY_CHANGED, key, now, session)
            return key

        # the audit log has no word for what is no id: only of a key that is there anything is written down
        row = await self.get(user_id=wanted.user_id, key_id=wanted.key_id)
        if not changes:
            return row
        key = await self.audit.transaction(write)
        self.staged()
        return _row(key)

    async def rotate(self, wanted: RotateKey) -> RotatedKey:
        """Give a usable key another secret. What it was known by stays good for the grace, and no longer than it was.

        The same secret again changes nothing. Raises `ApiError`: key_not_found, key_inactive, key_rotation_limit.
        """
        now = self.clock()
        secret = self._secret(wanted.sha256)
        # one that is in use has no end: the least of none and a time is that time
        ends = {
            "$min": [
                "$$secret.until",
                {"$dateAdd": {"startDate": "$$NOW", "unit": "second", "amount": wanted.grace_seconds}},
            ]
        }
        earlier = {
            "$map": {"input": "$secrets", "as": "secret", "in": {"$mergeObjects": ["$$secret", {"until": ends}]}}
        }
        still_good = {"$filter": {"input": earlier, "as": "secret", "cond": {"$gt": ["$$secret.until", "$$NOW"]}}}
        update = [
            {
                "$set": {
                    "secrets": {"$concatArrays": [still_good, [{"$literal": secret.model_dump()}]]},
                    "key_prefix": {"$literal": wanted.key_prefix},
                    "rotated_at": "$$NOW",
                    "version": {"$add": ["$version", 1]},
                }
            }
        ]
        own = {"_id": wanted.key_id, "user_id": wanted.user_id}

        async def write(session: AsyncClientSession) -> ApiKeyDocument:
            again = await ApiKeyDocument.find_one({**own, "secrets.digest": secret.digest}, session=session)
            if again is not None:
                return again
            await self._record(AuditAction.KEY_ROTATED, wanted.user_id, wanted.key_id, session)
            key = await _update_usable(wanted.user_id, wanted.key_id, update, session)
            if len(key.secrets) > MAX_SECRETS:
                raise ApiError("key_rotation_limit")
            await _stage(KEY_ROTATED, key, now, session)
            return key

        async def read_back() -> ApiKeyDocument | None:
            return await ApiKeyDocument.find_one({**own, "secrets.digest": secret.digest})

        await self.get(user_id=wanted.user_id, key_id=wanted.key_id)
        key = await self.audit.transaction(write, read_back=read_back)
        self.staged()
        ended = key.secrets[-2].until if len(key.secrets) > 1 else None
        return RotatedKey(row=_row(key), previous_until=ended or key.rotated_at or now)

    async def count_active(self, user_id: str) -> int:
        """Return how many keys of a user can be used."""
        return await ApiKeyDocument.find({"user_id": user_id, **_USABLE}).count()

    async def deactivate(self, *, user_id: str, key_id: str) -> KeyRow:
        """Revoke a key of the user's; again changes nothing. Raises `ApiError` (key_not_found)."""
        now = self.clock()

        async def write(session: AsyncClientSession) -> ApiKeyDocument | None:
            keys, own = ApiKeyDocument.get_pymongo_collection(), {"_id": key_id, "user_id": user_id}
            changed = await keys.find_one_and_update(
                {**own, "is_active": True},
                {"$set": {"is_active": False, "deactivated_at": now}, "$inc": {"version": 1}},
                return_document=ReturnDocument.AFTER,
                session=session,
            )
            found = changed or await keys.find_one(own, session=session)
            if found is None:
                return None
            key: ApiKeyDocument = ApiKeyDocument.model_validate(found)
            if changed:
                await self._record(AuditAction.KEY_DEACTIVATED, user_id, key_id, session)
                await _stage(KEY_DEACTIVATED, key, now, session)
            return key

        key = await self.audit.transaction(write)
        if key is None:
            raise ApiError("key_not_found")
        self.staged()
        return _row(key)

    async def check(self, sha256: str) -> Caller:
        """Return whose key has this SHA-256 (hex). Raises `ApiError` (invalid_api_key).

        On the path of every prompt: two look-ups by index, past Beanie, which would double their cost.
        """
        digests = {version: digest_of(sha256, pepper) for version, pepper in self.peppers.by_version.items()}
        presented = list(digests.values())
        key = await ApiKeyDocument.get_pymongo_collection().find_one(
            {"secrets.digest": {"$in": presented}, **_USABLE}, _CALLER_FIELDS
        )
        if key is None:
            raise ApiError("invalid_api_key")
        secret = next(secret for secret in key["secrets"] if secret["digest"] in presented)
        user = {"_id": key["user_id"], "is_active": True}
        if secret["until"] is not None:
            # the end of its grace, held against the database's clock without a look-up more
            user["$expr"] = {"$gt": [secret["until"], "$$NOW"]}
        if await UserDocument.get_pymongo_collection().find_one(user, {"_id": 1}) is None:
            raise ApiError("invalid_api_key")
        self._note_use(key["_id"], secret, digests[self.peppers.current_version])
        return Caller(
            user_id=key["user_id"],
            key_id=key["_id"],
            key_prefix=key["key_prefix"],
            scopes=key["scopes"],
            allowed_models=key["allowed_models"],
        )

    def _note_use(self, key_id: str, secret: dict[str, Any], current_digest: str) -> None:
        """Have written later, when nobody waits: when the key was used, and its digest under the current pepper."""
        # never backwards: other workers note uses of the same key
        self.after_checks.put(f"{key_id} used", UpdateOne({"_id": key_id}, {"$max": {"last_used_at": self.clock()}}))
        if secret["pepper_version"] != self.peppers.current_version:
            # found by the old digest: whoever comes second, or after a rotation has ended it, changes nothing
            renewed = {
                "secrets.$.digest": current_digest,
                "secrets.$.pepper_version": self.peppers.current_version,
            }
            update = UpdateOne({"_id": key_id, "secrets.digest": secret["digest"]}, {"$set": renewed})
            self.after_checks.put(f"{key_id} {secret['digest']}", update)

    def _secret(self, sha256: str) -> KeySecret:
        return KeySecret(digest=digest_of(sha256, self.peppers.current), pepper_version=self.peppers.current_version)

    async def ended(self, key_ids: list[str]) -> list[str]:
        """Return those of some keys (ids) that open nothing any more: revoked, expired, of a disabled user, unknown."""
        keys = ApiKeyDocument.get_pymongo_collection()
        usable = {
            key["_id"]: key["user_id"] async for key in keys.find({"_id": {"$in": key_ids}, **_USABLE}, {"user_id": 1})
        }
        users = UserDocument.get_pymongo_collection()
        active = {
            user["_id"]
            async for user in users.find({"_id": {"$in": list(set(usable.values()))}, "is_active": True}, {"_id": 1})
        }
        return [key_id for key_id in key_ids if usable.get(key_id) not in active]


def _require_future(expires_at: datetime | None, now: datetime) -> None:
    if expires_at is not None and expires_at <= now:
        raise ApiError("validation_error", "expires_at has to be in the future.", param="expires_at")


async def _update_usable(user_id: str, key_id: str, update: Any, session: AsyncClientSession) -> ApiKeyDocument:
    """Update a key of the user's and return it as it is then. Raises `ApiError` (key_not_found, key_inactive)."""
    keys, own = ApiKeyDocument.get_pymongo_collection(), {"_id": key_id, "user_id": user_id}
    changed = await keys.find_one_and_update(
        {**own, **_USABLE}, update, return_document=ReturnDocument.AFTER, session=session
    )
    if changed is None:
        known = await keys.find_one(own, {"_id": 1}, session=session)
        raise ApiError("key_not_found" if known is None else "key_inactive")
    key: ApiKeyDocument = ApiKeyDocument.model_validate(changed)
    return key


async def _stage(kind: EventType[KeyChanged], key: ApiKeyDocument, at: datetime, session: AsyncClientSession) -> None:
    payload = KeyChanged(key_id=key.id, user_id=key.user_id, is_active=key.is_active)
    await stage(kind, payload, entity=key.id, version=key.version, at=at, session=session)


def _row(key: ApiKeyDocument) -> KeyRow:
    return KeyRow(
        id=key.id,
        user_id=key.user_id,
        key_prefix=key.key_prefix,
        name=key.name,
        is_active=key.is_active,
        created_at=key.created_at,
        expires_at=key.expires_at,
        last_used_at=key.last_used_at,
        scopes=key.scopes,
        allowed_models=key.allowed_models,
    )
