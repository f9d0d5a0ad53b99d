"""The documentation: for people at `/docs`, for language models at `/llms.txt`. Public, and there without a bus."""

from fastapi import APIRouter, Request, Response
from morpheus_common.errors import ApiError
from starlette.responses import RedirectResponse

from morpheus_gateway.compression import accepts_gzip
from morpheus_gateway.conditions import tags_named
from morpheus_gateway.documentation import Documentation, StoredFile
from morpheus_gateway.middleware import CONTENT_SECURITY_POLICY

router = APIRouter(include_in_schema=False)

REFERENCE = "/docs/reference"
WITHOUT_CONSOLE = "/docs/reference/without-console"
# the theme and Swagger UI have pictures in their style sheets
_PAGE_POLICY = f"{CONTENT_SECURITY_POLICY}; img-src 'self' data:"
_PAGE_CACHE = "public, max-age=60"
_ASSET_CACHE = "public, max-age=31536000, immutable"


@router.get("/docs")
@router.get("/docs/{path:path}")
@router.get("/llms.txt")
@router.get("/llms-full.txt")
async def docs(request: Request) -> Response:
    """A page, its Markdown, or what a page is made of; 308 where a page has moved."""
    site: Documentation | None = request.app.state.documentation
    if site is None:
        raise ApiError("not_found", "This gateway was built without its documentation. `make docs` builds it.")
    address: str = request.scope["path"]
    if (moved_to := site.moved.get(address)) is not None:
        return RedirectResponse(moved_to, 308, {"Cache-Control": _PAGE_CACHE})
    if address == REFERENCE and not request.app.state.docs_try_it:
        address = WITHOUT_CONSOLE
    file = site.files.get(address)
    if file is None:
        raise ApiError("not_found", "There is no such page. /docs has a list of all, /llms.txt one for programs.")
    return _answer(request, file)


def _answer(request: Request, file: StoredFile) -> Response:
    headers = {
        "ETag": file.etag,
        # an address that names its content never has another; one that names another build's must not be kept
        "Cache-Control": _ASSET_CACHE if request.query_params.get("v") == file.digest else _PAGE_CACHE,
        "Vary": "Accept-Encoding",
    }
    if file.is_page:
        headers["Content-Security-Policy"] = _PAGE_POLICY
    asked = tags_named(request.headers.getlist("if-none-match"))
    if file.etag.removeprefix("W/") in asked or "*" in asked:
        return Response(status_code=304, headers=headers)
    if file.is_compressed and accepts_gzip(request.headers.get("accept-encoding", "")):
        headers["Content-Encoding"] = "gzip"
        return Response(file.content, headers=headers, media_type=file.media_type)
    return Response(file.plain(), headers=headers, media_type=file.media_type)
