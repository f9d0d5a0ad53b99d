"""What a caller is told while the database is away."""

from typing import Any, Final

from faststream import BaseMiddleware
from faststream.message import StreamMessage
from pymongo.errors import ConnectionFailure, ExecutionTimeout, OperationFailure, PyMongoError

from morpheus_common.errors import ApiError
from morpheus_common.logs import get_logger

log = get_logger(__name__)


_STARTING_CODES: Final = frozenset({134, 211})
"""ReadConcernMajorityNotAvailableYet and KeyNotFound (the key that signs cluster time, seen after all members were killed):
what a member answers, as an ordinary failure, before it has heard from a primary.
"""


def database_is_away(error: BaseException) -> bool:
    """Tell whether it may work later: the database was not reached, too slow, starting, or in the middle of something else."""
    return isinstance(error, PyMongoError) and (
        isinstance(error, ConnectionFailure | ExecutionTimeout)
        or error.timeout
        or error.has_error_label("TransientTransactionError")
        or (isinstance(error, OperationFailure) and error.code in _STARTING_CODES)
    )


class StoreMiddleware(BaseMiddleware[Any, Any]):
    """Turns an unreachable database into `service_unavailable`. Stands inside `RpcMiddleware`."""

    async def consume_scope(self, call_next: Any, msg: StreamMessage[Any]) -> Any:
        """Run the handler of one message."""
        try:
            return await call_next(msg)
        except PyMongoError as error:
            if not database_is_away(error):
                raise
            log.warning("database not available", problem=type(error).__name__)
            raise ApiError("service_unavailable", retry_after=1) from error
