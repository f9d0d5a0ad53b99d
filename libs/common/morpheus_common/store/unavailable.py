"""What a caller is told while the database is away."""

from typing import Any

from faststream import BaseMiddleware
from faststream.message import StreamMessage
from pymongo.errors import ConnectionFailure, ExecutionTimeout, PyMongoError

from morpheus_common.errors import ApiError
from morpheus_common.logs import get_logger

log = get_logger(__name__)


class StoreMiddleware(BaseMiddleware[Any, Any]):
    """Turns an unreachable database into `service_unavailable`. Stands inside `RpcMiddleware`."""

    async def consume_scope(self, call_next: Any, msg: StreamMessage[Any]) -> Any:
        """Run the handler of one message."""
        try:
            return await call_next(msg)
        except PyMongoError as error:
            temporary = isinstance(error, ConnectionFailure | ExecutionTimeout) or error.has_error_label(
                "TransientTransactionError"
            )
            if not temporary:
                raise
            log.warning("database not available", problem=type(error).__name__)
            raise ApiError("service_unavailable", retry_after=1) from error
