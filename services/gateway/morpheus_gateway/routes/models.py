"""What is on offer. Served from memory; public."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from morpheus_gateway.catalogue import Listing
from morpheus_gateway.compression import accepts_gzip, packed_tag, unpacked_tag
from morpheus_gateway.conditions import tags_named
from morpheus_gateway.context import Context, ContextOf
from morpheus_gateway.examples import MODEL
from morpheus_gateway.openapi_parts import errors, header
from morpheus_gateway.prompt_shapes import ModelList, ModelObject

router = APIRouter(tags=["models"])

OF_A_COPY = header("ETag", "X-Catalog-Age")
UNCHANGED: dict[int | str, dict[str, Any]] = {
    304: {"description": "The copy that `If-None-Match` names is still the right one.", "headers": OF_A_COPY}
}
_LISTED = UNCHANGED | {200: {"model": ModelList, "headers": OF_A_COPY}}
_SHOWN = UNCHANGED | {200: {"model": ModelObject, "headers": OF_A_COPY}}
CONDITION: dict[str, Any] = {
    "parameters": [
        {
            "name": "If-None-Match",
            "in": "header",
            "required": False,
            "description": "`ETag` of the copy that you have: 304 without a body if nothing has changed",
            "schema": {"type": "string", "examples": ['"0123456789abcdef0123456789abcdef"']},
        }
    ]
}


def answer(request: Request, listing: Listing, *, age: float, caching: str = "public, max-age=5") -> Response:
    """Return a listing, or 304 if its client has it. `age`: seconds since the router said so. `caching`: its Cache-Control."""
    headers = {
        "ETag": listing.etag,
        "Cache-Control": caching,
        "X-Catalog-Age": str(int(age)),
        "Vary": "Accept-Encoding",
    }
    body = listing.body
    if listing.packed is not None and accepts_gzip(request.headers.get("accept-encoding", "")):
        body = listing.packed
        headers |= {"ETag": packed_tag(listing.etag), "Content-Encoding": "gzip"}
    if _has(request, listing):
        headers.pop("Content-Encoding", None)
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type="application/json")


def _has(request: Request, listing: Listing) -> bool:
    tags = [unpacked_tag(tag) for tag in tags_named(request.headers.getlist("if-none-match"))]
    return listing.etag in tags or "*" in tags


def _answer(request: Request, context: Context, listing: Listing) -> Response:
    return answer(request, listing, age=context.catalogue.age)


@router.get("/api/v1/models", responses=_LISTED, openapi_extra=CONDITION)
@router.get("/v1/models", include_in_schema=False)
async def list_models(request: Request, context: ContextOf) -> Response:
    """Models that are not deleted and have at least one active bid."""
    return _answer(request, context, context.catalogue.models.offered)


@router.get("/api/v1/models/allmodels", responses=_LISTED, openapi_extra=CONDITION)
@router.get("/v1/models/allmodels", include_in_schema=False)
async def list_all_models(request: Request, context: ContextOf) -> Response:
    """All models that are not deleted."""
    return _answer(request, context, context.catalogue.models.all)


@router.get("/api/v1/models/{model_id:path}", responses=_SHOWN | errors("model_not_found"), openapi_extra=CONDITION)
@router.get("/v1/models/{model_id:path}", include_in_schema=False)
async def get_model(
    model_id: Annotated[str, Path(description="name or chain id; slashes may be encoded", examples=[MODEL])],
    request: Request,
    context: ContextOf,
) -> Response:
    """One model, by name or chain id."""
    models = context.catalogue.models
    return _answer(request, context, Listing.of(models.openai_object(models.find(model_id))))
