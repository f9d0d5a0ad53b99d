"""Logins, and the refresh tokens that carry them on. Each token is exchanged once; a stolen one gives itself away."""

import hashlib
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from bson import Binary
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from morpheus_common.clock import Clock
from morpheus_common.contracts.audit import Actor, AuditAction
from morpheus_common.contracts.auth import Caller
from morpheus_common.errors import ApiError
from morpheus_common.logs import get_logger
from morpheus_common.store.mongo import MongoClient
from morpheus_common.store.transactions import run_transaction
from pydantic import BaseModel
from pymongo.asynchronous.client_session import AsyncClientSession

from morpheus_auth.access_tokens import AccessTokens
from morpheus_auth.accounts import Proven, is_active_user
from morpheus_auth.audit import Audit
from morpheus_auth.documents import (
    NOT_EXPIRED,
    REFRESH_GRACE_SECONDS,
    LoginDocument,
    RefreshAnswerDocument,
    RefreshTokenDocument,
    UserDocument,
)
from morpheus_auth.login_throttle import remembering

log = get_logger(__name__)

PREFIX = "rt-"
"""Makes a refresh token recognisable: logs are masked by it."""
NONCE_BYTES = 12

_IN_GRACE = {
    "$gt": ["$created_at", {"$dateSubtract": {"startDate": "$$NOW", "unit": "second", "amount": REFRESH_GRACE_SECONDS}}]
}


class Tokens(BaseModel):
    """What a login or a refresh gives. `expires_in`: seconds the access token lives."""

    access_token: str
    refresh_token: str
    expires_in: int


def digest_of(token: str) -> str:
    """Return what a refresh token is stored as: its SHA-256, hex. 256 random bits need no slow hash."""
    return hashlib.sha256(token.encode()).hexdigest()


def _answer_key(token: str) -> AESGCM:
    return AESGCM(HKDF(SHA256(), 32, salt=None, info=b"morpheus-refresh-answer-v1").derive(token.encode()))


def seal_for_token(answer: Tokens, token: str) -> bytes:
    """Seal the answer to a refresh so that only who has the spent token can open it."""
    nonce = os.urandom(NONCE_BYTES)
    return nonce + _answer_key(token).encrypt(nonce, answer.model_dump_json().encode(), digest_of(token).encode())


def open_for_token(sealed: bytes, token: str) -> Tokens:
    """Open what `seal_for_token` sealed."""
    nonce, ciphertext = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
    return Tokens.model_validate_json(_answer_key(token).decrypt(nonce, ciphertext, digest_of(token).encode()))


@dataclass(frozen=True, slots=True)
class Logins:
    """`refresh_lifetime`: how long an unused refresh token lives; `login_lifetime`: how long its whole family does."""

    client: MongoClient
    audit: Audit
    access_tokens: AccessTokens
    refresh_lifetime: timedelta
    login_lifetime: timedelta
    clock: Clock

    async def start(self, proven: Proven) -> Tokens:
        """Begin a login of a user who has just proved who he is, and remember from where.

        Raises `ApiError` (invalid_credentials) if his password was changed, or he was deleted, meanwhile.
        """
        now = self.clock()
        login = LoginDocument(user_id=proven.user_id, authenticated_at=now, expires_at=now + self.login_lifetime)
        tokens = self._make_tokens(login, now)
        first = self._document(tokens.refresh_token, login, now)

        async def write(session: AsyncClientSession) -> None:
            still_his = await UserDocument.get_pymongo_collection().update_one(
                {"_id": proven.user_id, "is_active": True, "password_hash": proven.password_hash},
                [
                    {"$set": {"login_guard": {"$add": [{"$ifNull": ["$login_guard", 0]}, 1]}}},
                    remembering(proven.address),
                ],
                session=session,
            )
            if not still_his.matched_count:
                raise ApiError("invalid_credentials")
            await login.insert(session=session)
            await first.insert(session=session)

        await run_transaction(self.client, write)
        return tokens

    async def refresh(self, token: str) -> Tokens:
        """Exchange a refresh token. Within ten seconds it gives the same answer again; later its login is ended.

        Raises `ApiError`: invalid_refresh_token, refresh_token_reused.
        """
        digest = digest_of(token)
        stored = await RefreshTokenDocument.get(digest)
        login = await LoginDocument.get(stored.login_id) if stored else None
        if stored is None or login is None:
            raise ApiError("invalid_refresh_token")
        if stored.used_at is None:
            tokens = await self._spend(token, login)
            if tokens is not None:
                return tokens
        return await self._repeat(token, login)

    async def _spend(self, token: str, login: LoginDocument) -> Tokens | None:
        """Exchange a token, or return None if it has expired or was exchanged just now by someone else."""
        digest = digest_of(token)
        now = self.clock()
        tokens = self._make_tokens(login, now)
        successor = self._document(tokens.refresh_token, login, now)
        sealed = Binary(seal_for_token(tokens, token))

        async def write(session: AsyncClientSession) -> bool:
            spent = await RefreshTokenDocument.get_pymongo_collection().update_one(
                {"_id": digest, "used_at": None, "$expr": NOT_EXPIRED},
                [{"$set": {"used_at": "$$NOW"}}],
                session=session,
            )
            if not spent.matched_count:
                return False
            alive = await LoginDocument.get_pymongo_collection().update_one(
                {"_id": login.id, "revoked_at": None, "$expr": NOT_EXPIRED},
                {"$inc": {"refreshes": 1}},
                session=session,
            )
            user = await UserDocument.find_one({"_id": login.user_id, "is_active": True}, session=session)
            if not alive.matched_count or user is None:
                raise ApiError("invalid_refresh_token")
            await successor.insert(session=session)
            await RefreshAnswerDocument.get_pymongo_collection().update_one(
                {"_id": digest},
                [{"$set": {"sealed": {"$literal": sealed}, "created_at": "$$NOW"}}],
                upsert=True,
                session=session,
            )
            return True

        async def read_back() -> bool | None:
            answer = await RefreshAnswerDocument.get(digest)
            return True if answer is not None and answer.sealed == sealed else None

        return tokens if await run_transaction(self.client, write, read_back=read_back) else None

    async def _repeat(self, token: str, login: LoginDocument) -> Tokens:
        """Answer for a token that could not be exchanged."""
        digest = digest_of(token)
        answer = await RefreshAnswerDocument.find_one({"_id": digest, "$expr": _IN_GRACE})
        if answer is not None:
            if await LoginDocument.find_one({"_id": login.id, "revoked_at": None}) is None:
                raise ApiError("invalid_refresh_token")
            return open_for_token(answer.sealed, token)
        stored = await RefreshTokenDocument.get(digest)
        if stored is None or stored.used_at is None:
            raise ApiError("invalid_refresh_token")

        async def revoke(session: AsyncClientSession) -> None:
            if await revoke_logins({"_id": login.id}, session):
                await self.audit.append(
                    AuditAction.LOGIN_REVOKED,
                    session=session,
                    actor=Actor.SERVICE,
                    subject_user=login.user_id,
                    facts={"login_id": login.id},
                )

        await self.audit.transaction(revoke)
        log.warning("refresh token presented again; login ended", user_id=login.user_id, login_id=login.id)
        raise ApiError("refresh_token_reused")

    async def check(self, *, user_id: str, login_id: str) -> Caller:
        """Return the caller of an access token whose signature is good. Raises `ApiError` (invalid_token)."""
        login = await LoginDocument.get_pymongo_collection().find_one(
            {"_id": login_id, "user_id": user_id, "revoked_at": None, "$expr": NOT_EXPIRED}, {"_id": 1}
        )
        if login is None or not await is_active_user(user_id):
            raise ApiError("invalid_token")
        return Caller(user_id=user_id, login_id=login_id)

    async def end(self, user_id: str, login_id: str) -> None:
        """End one login of a user; again, or one that is not his, changes nothing."""

        async def write(session: AsyncClientSession) -> None:
            if await revoke_logins({"_id": login_id, "user_id": user_id}, session):
                await self._record_end(user_id, {"login_id": login_id}, session)

        await self.audit.transaction(write)

    async def end_every(self, user_id: str) -> None:
        """End all logins of a user."""

        async def write(session: AsyncClientSession) -> None:
            await self._record_end(user_id, {"all": True}, session)
            await revoke_logins({"user_id": user_id}, session)

        await self.audit.transaction(write)

    async def _record_end(self, user_id: str, facts: Mapping[str, str | bool], session: AsyncClientSession) -> None:
        await self.audit.append(
            AuditAction.LOGIN_ENDED, session=session, actor=Actor.USER, subject_user=user_id, facts=facts
        )

    def _make_tokens(self, login: LoginDocument, now: datetime) -> Tokens:
        access_token = self.access_tokens.make(
            user_id=login.user_id, login_id=login.id, authenticated_at=login.authenticated_at, now=now
        )
        return Tokens(
            access_token=access_token,
            refresh_token=PREFIX + secrets.token_urlsafe(32),
            expires_in=self.access_tokens.lifetime,
        )

    def _document(self, token: str, login: LoginDocument, now: datetime) -> RefreshTokenDocument:
        expires_at = min(now + self.refresh_lifetime, login.expires_at)
        return RefreshTokenDocument(id=digest_of(token), login_id=login.id, created_at=now, expires_at=expires_at)


async def revoke_logins(which: Mapping[str, Any], session: AsyncClientSession) -> int:
    """End those logins that have not ended, inside the running transaction; return how many that were."""
    revoked = await LoginDocument.get_pymongo_collection().update_many(
        {**which, "revoked_at": None}, [{"$set": {"revoked_at": "$$NOW"}}], session=session
    )
    return revoked.modified_count
