"""What a caller may wish of a session: which model or bid, for how long."""

from morpheus_common.contracts.auth import Caller
from morpheus_common.errors import ApiError

from morpheus_gateway.context import Context
from morpheus_gateway.settings import GatewaySettings


def model_for(context: Context, caller: Caller, named: str) -> str:
    """Return the chain id of a model by name or id. Raises `model_not_found`, `model_not_allowed`."""
    model_id = context.catalogue.models.find(named, param="model_id").id
    if caller.allowed_models is not None and model_id not in caller.allowed_models:
        raise ApiError("model_not_allowed", param="model_id")
    return model_id


def check_bids_allowed(caller: Caller) -> None:
    """Raise `model_not_allowed` for a key that is limited to certain models: a bid may be for any."""
    if caller.allowed_models is not None:
        raise ApiError("model_not_allowed", "This API key is limited to certain models: name one by model_id.")


def duration_within(settings: GatewaySettings, asked: int | None, *, param: str) -> int:
    """Return the seconds asked for, or the default. Raises `validation_error` over the limit."""
    duration = asked or settings.session_duration
    if duration > settings.session_duration_limit:
        raise ApiError(
            "validation_error", f"{param} can be {settings.session_duration_limit} seconds at most.", param=param
        )
    return duration
