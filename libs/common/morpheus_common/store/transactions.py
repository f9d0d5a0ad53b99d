"""The one way to run a transaction.

`start_transaction` is used nowhere (a check of the build forbids it): a forgotten `await` writes outside of it.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import pymongo
from pymongo import ReadPreference
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from morpheus_common.request_context import deadline
from morpheus_common.store.mongo import MongoClient

T = TypeVar("T")

MAX_SECONDS = 20.0
"""pymongo alone would try for two minutes."""
_SHARE = 0.7
"""Of the time our caller still waits; the rest is for reading back and for the answer's way."""
_LEAST_SECONDS = 0.2
_READ_BACK_SECONDS = 2.0


def _patience() -> float:
    current = deadline.get()
    if current is None or current.passed:
        # work that goes on after its caller has left is nobody's answer, and has to get done
        return MAX_SECONDS
    return max(_LEAST_SECONDS, min(MAX_SECONDS, current.left * _SHARE))


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

    It ends in time for our caller to be answered, and after `MAX_SECONDS` anyway.
    """
    async with client.start_session() as session:
        try:
            with pymongo.timeout(_patience()):
                return await session.with_transaction(
                    body,
                    read_concern=ReadConcern("snapshot"),
                    write_concern=WriteConcern("majority", j=True),
                    read_preference=ReadPreference.PRIMARY,
                )
        except PyMongoError as error:
            if read_back is None or not error.has_error_label("UnknownTransactionCommitResult"):
                raise
            with pymongo.timeout(_READ_BACK_SECONDS):
                result = await read_back()
            if result is None:
                raise
            return result
