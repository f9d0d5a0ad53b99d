"""The one way to run a transaction.

`start_transaction` is used nowhere (a check of the build forbids it): a forgotten `await` writes outside of it.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from pymongo import ReadPreference
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from morpheus_common.store.mongo import MongoClient

T = TypeVar("T")

_COMMIT_TIMEOUT_MS = 10_000


async def run_transaction(
    client: MongoClient,
    body: Callable[[AsyncClientSession], Awaitable[T]],
    *,
    read_back: Callable[[], Awaitable[T | None]] | None = None,
) -> T:
    """Run `body` in a transaction and return what it returns.

    `body` does nothing but database operations, each with the session it is given: it runs again when another
    transaction was in the way. When the commit's answer was lost, `read_back` (a majority read) tells whether it
    happened: it returns the result, or None if nothing was written, and then the error is raised.
    """
    async with client.start_session() as session:
        try:
            return await session.with_transaction(
                body,
                read_concern=ReadConcern("snapshot"),
                write_concern=WriteConcern("majority", j=True),
                read_preference=ReadPreference.PRIMARY,
                max_commit_time_ms=_COMMIT_TIMEOUT_MS,
            )
        except PyMongoError as error:
            if read_back is None or not error.has_error_label("UnknownTransactionCommitResult"):
                raise
            result = await read_back()
            if result is None:
                raise
            return result
