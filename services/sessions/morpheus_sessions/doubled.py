"""Records that have in common what only one may have. Unique indexes keep them apart; audits and gauges look whether they do."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from beanie import Document
from morpheus_common.store.outbox import OutboxRow
from pymongo.asynchronous.collection import AsyncCollection

from morpheus_sessions.documents import OperationDocument, SessionDocument


@dataclass(frozen=True, slots=True)
class Once:
    """What only one record of a collection may have: `key`, of those that `which` selects. `index`: what keeps it, if any."""

    document: type[Document]
    key: Mapping[str, str]
    which: Mapping[str, Any]
    index: str | None = None


SLOT: Final = Once(
    SessionDocument, {"key": "$key_id", "slot": "$slot"}, {"slot": {"$type": "string"}}, "one_per_key_and_slot"
)
CHAIN_SESSION: Final = Once(
    SessionDocument,
    {"chain": "$chain", "session": "$chain_session"},
    {"chain_session": {"$type": "string"}},
    "one_per_chain_session",
)
OPERATION: Final = Once(SessionDocument, {"operation": "$operation_id"}, {})
APPROVAL: Final = Once(
    OperationDocument, {"approval": "$approval"}, {"approval": {"$type": "string"}}, "one_use_of_an_approval"
)
VERSION: Final = Once(OutboxRow, {"entity": "$entity", "version": "$version"}, {}, "entity_version")


async def doubled(
    collection: AsyncCollection[dict[str, Any]], once: Once, *, most: int, ids: int, milliseconds: int
) -> list[dict[str, Any]]:
    """Return what more than one record has, at most `most` of it: the key as `_id`, and `ids` of its records.

    Reads the whole collection, for at most so many milliseconds.
    """
    cursor = await collection.aggregate(
        [
            {"$match": once.which},
            {"$group": {"_id": once.key, "count": {"$sum": 1}, "ids": {"$firstN": {"input": "$_id", "n": ids}}}},
            {"$match": {"count": {"$gt": 1}}},
            {"$limit": most},
        ],
        allowDiskUse=True,
        maxTimeMS=milliseconds,
    )
    return await cursor.to_list()
