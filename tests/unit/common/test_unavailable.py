"""Which failures of the database pass by themselves."""

import pytest
from morpheus_common.store.unavailable import database_is_away
from pymongo.errors import (
    AutoReconnect,
    DuplicateKeyError,
    ExecutionTimeout,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)


@pytest.mark.parametrize(
    "error",
    [
        AutoReconnect("connection closed"),
        ServerSelectionTimeoutError("no primary"),
        ExecutionTimeout("too slow", 50),
        OperationFailure("Read concern majority reads are currently not possible", 134),
        OperationFailure("No keys found for HMAC that is valid for time", 211),
    ],
    ids=lambda error: f"{type(error).__name__}-{getattr(error, 'code', None)}",
)
def test_a_database_that_is_reached_no_more_or_not_yet_is_away(error: PyMongoError) -> None:
    """C46: members that were all killed answer before they have a primary."""
    assert database_is_away(error)


@pytest.mark.parametrize(
    "error", [OperationFailure("not authorized", 13), DuplicateKeyError("twice", 11000), LookupError()], ids=repr
)
def test_what_is_our_own_mistake_is_not_the_databases_absence(error: Exception) -> None:
    assert not database_is_away(error)
