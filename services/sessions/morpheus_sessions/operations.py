"""An operation as its owner sees it."""

from morpheus_common.contracts.sessions import Failure, OperationKind, OperationProgress, OperationRow
from morpheus_common.errors import ApiError

from morpheus_sessions.documents import ENDED, OperationDocument, OperationState
from morpheus_sessions.journal import Journal

_PROGRESS = {
    OperationState.PENDING: OperationProgress.RUNNING,
    OperationState.SENT: OperationProgress.RUNNING,
    OperationState.UNKNOWN: OperationProgress.UNKNOWN,
    OperationState.DONE: OperationProgress.SUCCEEDED,
    OperationState.FAILED: OperationProgress.FAILED,
    OperationState.ABANDONED: OperationProgress.FAILED,
}


def progress(operation: OperationDocument) -> OperationProgress:
    """Return how an operation stands.

    A close whose session was not seen on chain is not over: it is carried on should the session appear.
    """
    if operation.kind is OperationKind.CLOSE and operation.state is OperationState.ABANDONED:
        return OperationProgress.UNKNOWN
    return _PROGRESS[operation.state]


def failure(operation: OperationDocument) -> Failure | None:
    """Return why an operation came to nothing, None if it did not (or not yet)."""
    if progress(operation) is not OperationProgress.FAILED:
        return None
    if operation.error is None:
        error = ApiError("open_failed")
        return Failure(code=error.code, message=error.message)
    return Failure.model_validate(operation.error)


def outcome(operation: OperationDocument | None) -> None:
    """Raise what a caller is told of an operation, unless it is done."""
    if operation is None:
        raise ApiError("internal_error")
    if operation.state not in ENDED:
        raise ApiError("session_pending", details={"operation_id": operation.id})
    error = failure(operation)
    if error is not None:
        raise ApiError(
            error.code, error.message, param=error.param, retry_after=error.retry_after, details=error.details
        )


async def operation_of(journal: Journal, operation_id: str, key_id: str) -> OperationRow:
    """Return an operation of a key. Raises `operation_not_found`, of another key's as if there were none."""
    operation = await journal.operation(operation_id)
    if operation is None or operation.key_id != key_id:
        raise ApiError("operation_not_found")
    session = await journal.session(operation.session) if operation.session else None
    return OperationRow(
        id=operation.id,
        kind=operation.kind,
        state=progress(operation),
        session_id=None if session is None else session.chain_session,
        tx=operation.tx or next((fact["tx"] for fact in operation.facts if fact.get("tx")), None),
        error=failure(operation),
        created_at=operation.created_at,
        # written by whichever process had it last: clocks differ, what happened first does not
        updated_at=max(operation.created_at, operation.updated_at),
    )
