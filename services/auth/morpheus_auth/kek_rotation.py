"""Bringing everything at rest to the current version of the key-encryption key, a batch at a time.

Where it stands is in the records alone: whoever goes on after a crash asks for what is not on the current version. Only
wrapped keys are touched, never what they encrypt, and each is replaced in one write if it is still the one that was
read: what reads beside it sees the old or the new one, and a key that was deleted meanwhile does not come back.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

from beanie import Document
from morpheus_common.contracts.vault import KekName, KekUse, KekUses, KeysRewrapped, RewrapKeys, WrappedKind
from morpheus_common.errors import ApiError
from morpheus_common.logs import get_logger

from morpheus_auth.documents import (
    LOCAL_PROVIDER,
    AuditKeyDocument,
    PrivateKeyDocument,
    SealingKeyDocument,
    SigningKeyDocument,
    WrappedSecret,
)
from morpheus_auth.key_encryption import AWAY_RETRY_SECONDS, KekVersion, KeyEncryption, KeyringError, ProviderAway

log = get_logger(__name__)

AT_ONCE = 8
"""Records that a provider is asked about at once."""

_WRAPPED: dict[WrappedKind, tuple[type[Document], str]] = {
    WrappedKind.SIGNING_KEYS: (SigningKeyDocument, "private_key"),
    WrappedKind.SEALING_KEYS: (SealingKeyDocument, "private_key"),
    WrappedKind.AUDIT_KEYS: (AuditKeyDocument, "private_key"),
    WrappedKind.PRIVATE_KEYS: (PrivateKeyDocument, "data_key"),
}
"""Where something is wrapped, and in which field."""


@dataclass(frozen=True, slots=True)
class KekRotation:
    """What operators ask of the key-encryption keys."""

    keyring: KeyEncryption

    async def uses(self) -> KekUses:
        """Return which versions wrap how many records. Raises `ApiError` (service_unavailable)."""
        versions = await self._versions()
        records = dict.fromkeys(versions, 0)
        for kind, field in _WRAPPED.values():
            async for row in await kind.get_pymongo_collection().aggregate(_count(field)):
                version = KekVersion(**row["_id"])
                records[version] = records.get(version, 0) + row["records"]
        return KekUses(
            uses=[
                KekUse(
                    provider=version.provider,
                    key=version.key,
                    version=str(version.version),
                    records=count,
                    current=version == versions[0],
                )
                for version, count in records.items()
            ]
        )

    async def rewrap(self, batch: RewrapKeys) -> KeysRewrapped:
        """Rewrap the next records that are not on the current version. Raises `ApiError` (service_unavailable).

        Where another version is current here than the batch is for, nothing is done: the answer names it.
        """
        current = (await self._versions())[0]
        name = KekName(provider=current.provider, key=current.key, version=str(current.version))
        if batch.expected is not None and not batch.expected.fits(name):
            return KeysRewrapped(rewrapped=0, failed=[], last=None, current=name)
        kind, field = _WRAPPED[batch.kind]
        query: dict[str, Any] = {"$nor": [_on(current, field)]}
        if batch.after is not None:
            query["_id"] = {"$gt": batch.after}
        rows = await kind.get_pymongo_collection().find(query, {field: 1}).sort("_id").limit(batch.limit).to_list()
        rewrapped, failed = 0, []
        for start in range(0, len(rows), AT_ONCE):
            chunk = rows[start : start + AT_ONCE]
            outcomes = await asyncio.gather(
                *(self._rewrap_one(kind, field, row) for row in chunk), return_exceptions=True
            )
            for row, outcome in zip(chunk, outcomes, strict=True):
                if isinstance(outcome, KeyringError):
                    log.error("a wrapped key does not open", kind=batch.kind, problem=str(outcome))
                    failed.append(row["_id"])
                elif isinstance(outcome, ProviderAway):
                    raise _away() from None
                elif isinstance(outcome, BaseException):
                    raise outcome
                else:
                    rewrapped += outcome
        log.info("keys rewrapped", kind=batch.kind, version=current.version, rewrapped=rewrapped, failed=len(failed))
        last = rows[-1]["_id"] if len(rows) == batch.limit else None
        return KeysRewrapped(rewrapped=rewrapped, failed=failed, last=last, current=name)

    async def _rewrap_one(self, kind: type[Document], field: str, row: dict[str, Any]) -> int:
        """Return how many records were changed: none if it was deleted or rewrapped meanwhile."""
        wrapped = await self.keyring.rewrap(WrappedSecret.model_validate(row[field]), record_id=row["_id"])
        done = await kind.get_pymongo_collection().update_one(
            {"_id": row["_id"], f"{field}.ciphertext": row[field]["ciphertext"]},
            {"$set": {field: wrapped.model_dump()}},
        )
        return done.modified_count

    async def _versions(self) -> list[KekVersion]:
        try:
            return await self.keyring.versions()
        except ProviderAway:
            raise _away() from None


def _away() -> ApiError:
    return ApiError(
        "service_unavailable",
        "The provider of the key-encryption key does not answer, or refuses; auth's log says which. What was rewrapped "
        "stays so: run it again.",
        retry_after=AWAY_RETRY_SECONDS,
    )


def _on(version: KekVersion, field: str) -> dict[str, Any]:
    """Return the query for what a version wraps. Records of the first release name neither provider nor key."""
    local = version.provider == LOCAL_PROVIDER
    return {
        f"{field}.provider": {"$in": [version.provider, None]} if local else version.provider,
        f"{field}.key": {"$in": [version.key, None]} if local else version.key,
        f"{field}.key_version": version.version,
    }


def _count(field: str) -> list[dict[str, Any]]:
    version = {
        "provider": {"$ifNull": [f"${field}.provider", LOCAL_PROVIDER]},
        "key": {"$ifNull": [f"${field}.key", ""]},
        "version": f"${field}.key_version",
    }
    return [{"$group": {"_id": version, "records": {"$sum": 1}}}]
