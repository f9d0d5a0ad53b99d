"""API keys: made by the gateway, known here by a keyed hash of their SHA-256 only."""

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass

from morpheus_common.clock import Clock
from morpheus_common.contracts.audit import Actor, AuditAction
from morpheus_common.contracts.auth import KEY_CREATED, KEY_DEACTIVATED, Caller, CreateKey, KeyChanged, KeyRow, Scope
from morpheus_common.errors import ApiError
from morpheus_common.store.outbox import stage
from pymongo import ReturnDocument
from pymongo.asynchronous.client_session import AsyncClientSession

from morpheus_auth.accounts import is_active_user
from morpheus_auth.audit import Audit
from morpheus_auth.documents import ApiKeyDocument, UserDocument
from morpheus_auth.versioned_secrets import VersionedSecrets

_USABLE = {"is_active": True, "$expr": {"$or": [{"$eq": ["$expires_at", None]}, {"$gt": ["$expires_at", "$$NOW"]}]}}
"""Neither revoked nor expired, by the database's clock."""
_CALLER_FIELDS = {"user_id": 1, "key_prefix": 1, "scopes": 1, "allowed_models": 1}


def digest_of(sha256: str, pepper: bytes) -> str:
    """Return what a key is looked up by. `sha256` is the hex SHA-256 of the key.

    The look-up is by index, which takes no secret's time: without the pepper nobody can aim at a digest.
    """
    return hmac.new(pepper, bytes.fromhex(sha256), hashlib.sha256).hexdigest()


@dataclass(frozen=True, slots=True)
class ApiKeys:
    """`max_active` keys a user. `staged` is called after an event was written."""

    audit: Audit
    peppers: VersionedSecrets
    max_active: int
    clock: Clock
    staged: Callable[[], None]

    async def create(self, wanted: CreateKey) -> KeyRow:
        """Record a key; the same key of the same user again is that record.

        Raises `ApiError`: key_limit_reached, invalid_token if the user is gone, validation_error.
        """
        now = self.clock()
        if wanted.expires_at is not None and wanted.expires_at <= now:
            raise ApiError("validation_error", "expires_at has to be in the future.", param="expires_at")
        key = ApiKeyDocument(
            user_id=wanted.user_id,
            key_prefix=wanted.key_prefix,
            digest=digest_of(wanted.sha256, self.peppers.current),
            pepper_version=self.peppers.current_version,
            name=wanted.name,
            created_at=now,
            expires_at=wanted.expires_at,
            scopes=list(Scope) if wanted.scopes is None else list(dict.fromkeys(wanted.scopes)),
            allowed_models=wanted.allowed_models,
        )

        async def write(session: AsyncClientSession) -> ApiKeyDocument:
            guarded = await UserDocument.get_pymongo_collection().update_one(
                {"_id": key.user_id, "is_active": True}, {"$inc": {"key_guard": 1}}, session=session
            )
            if not guarded.matched_count:
                raise ApiError("invalid_token")
            again = await ApiKeyDocument.find_one({"digest": key.digest, "user_id": key.user_id}, session=session)
            if again is not None:
                return again
            active = await ApiKeyDocument.find({"user_id": key.user_id, **_USABLE}, session=session).count()
            if active >= self.max_active:
                raise ApiError("key_limit_reached")
            await self.audit.append(
                AuditAction.KEY_CREATED,
                session=session,
                actor=Actor.USER,
                subject_user=key.user_id,
                facts={"key_id": key.id},
            )
            await key.insert(session=session)
            await stage(
                KEY_CREATED,
                KeyChanged(key_id=key.id, user_id=key.user_id, is_active=True),
                entity=key.id,
                version=key.version,
                at=now,
                session=session,
            )
            return key

        made = await self.audit.transaction(write, read_back=lambda: ApiKeyDocument.get(key.id))
        self.staged()
        return _row(made)

    async def list_of(self, user_id: str) -> list[KeyRow]:
        """Return all keys of a user, newest first."""
        return [_row(key) async for key in ApiKeyDocument.find({"user_id": user_id}).sort("-_id")]

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
                await self.audit.append(
                    AuditAction.KEY_DEACTIVATED,
                    session=session,
                    actor=Actor.USER,
                    subject_user=user_id,
                    facts={"key_id": key_id},
                )
                await stage(
                    KEY_DEACTIVATED,
                    KeyChanged(key_id=key.id, user_id=key.user_id, is_active=False),
                    entity=key.id,
                    version=key.version,
                    at=now,
                    session=session,
                )
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
        digests = [digest_of(sha256, pepper) for pepper in self.peppers.by_version.values()]
        key = await ApiKeyDocument.get_pymongo_collection().find_one(
            {"digest": {"$in": digests}, **_USABLE}, _CALLER_FIELDS
        )
        if key is None or not await is_active_user(key["user_id"]):
            raise ApiError("invalid_api_key")
        return Caller(
            user_id=key["user_id"],
            key_id=key["_id"],
            key_prefix=key["key_prefix"],
            scopes=key["scopes"],
            allowed_models=key["allowed_models"],
        )

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
