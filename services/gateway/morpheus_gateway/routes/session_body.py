"""The body of a request to `/session/*`: looked at in one place, by the endpoints that read none too."""

from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from morpheus_common.errors import ApiError
from pydantic import ValidationError

from morpheus_gateway.body import is_json, read_json
from morpheus_gateway.principal import SessionsCaller
from morpheus_gateway.session_shapes import OpenRequest

OPEN_BODY: dict[str, Any] = {
    "requestBody": {
        "content": {
            "application/json": {"schema": {"anyOf": [OpenRequest.model_json_schema(by_alias=True), {"type": "null"}]}}
        }
    }
}
"""What OpenAPI tells of the body of an open."""


async def sound_body(request: Request, _: SessionsCaller) -> object:
    """Return what a body says, None without one.

    Raises `unsupported_media_type` (415) for one that is said to be something else than JSON, `invalid_json` (400) for
    one that is not, `validation_error` (422) for a number of thousands of digits.
    """
    body = await request.body()
    if not body:
        return None
    if not is_json(request.headers.get("content-type")):
        raise ApiError("unsupported_media_type")
    return read_json(body)


async def open_request(told: Annotated[object, Depends(sound_body)]) -> OpenRequest:
    """Return how the session is wished for. Raises 422 for what does not fit."""
    if told is None:
        return OpenRequest()
    try:
        return OpenRequest.model_validate(told)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False, include_context=False)
        raise RequestValidationError([{**item, "loc": ("body", *item["loc"])} for item in problems]) from None


SoundBody = Depends(sound_body)
OpenBody = Annotated[OpenRequest, Depends(open_request)]
