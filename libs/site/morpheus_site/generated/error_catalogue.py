"""The page of all errors, from the catalogue that they are made with."""

from collections.abc import Iterator
from http import HTTPStatus

from morpheus_common.errors import CATALOGUE, ErrorKind

from morpheus_site.generated.text import block, code, page, prose, table

_INTRODUCTION = """\
Every failure has the same body, whatever its status:"""

_BODY = """\
{
  "error": {
    "message": "No such model. GET /api/v1/models lists what is offered.",
    "type": "invalid_request_error",
    "param": "model",
    "code": "model_not_found",
    "details": {"suggestions": ["llama-3.3-70b"]}
  }
}"""

_RULES = """\
- `code` stays as it is; programs decide by it. `message` is for people and may change. `param` names the part of the \
request that it is about, or is null. `details` is there where more helps.
- **Retry** says whether waiting for up to a minute can cure it without a prompt running twice. The OpenAI-compatible \
endpoints say the same in the header `x-should-retry`, which OpenAI's SDKs obey. Of an answer that had begun, or a prompt \
that a provider may have run, the header is `false` whatever stands here.
- 429 and 503 come with `Retry-After`, 1 to 60 seconds.
- A stream whose status went out already ends with the same object in `data: {"error": …}` before `data: [DONE]`.
- `X-Request-Id` of the answer is what an operator finds a request by."""


def error_page() -> str:
    """Return the page: a table to look codes up in, then what to do about each."""
    parts = ["# Errors", _INTRODUCTION, block("json", _BODY), _RULES, "## All codes", _all_codes()]
    for status in sorted({kind.status for kind in CATALOGUE.values()}):
        parts.append(f"## {status} {HTTPStatus(status).phrase}")
        for kind in CATALOGUE.values():
            if kind.status == status:
                parts += _section(kind)
    return page(*parts)


def _all_codes() -> str:
    kinds = sorted(CATALOGUE.values(), key=lambda kind: (kind.status, kind.code))
    rows = [
        (
            f"[{code(kind.code)}](#{kind.code})",
            str(kind.status),
            code(kind.type),
            "yes" if kind.retry else "no",
            _who(kind),
        )
        for kind in kinds
    ]
    return table(("Code", "Status", "Type", "Retry", "Seen by"), rows)


def _who(kind: ErrorKind) -> str:
    return "operators" if kind.operators_only else "callers"


def _section(kind: ErrorKind) -> Iterator[str]:
    yield f"### {code(kind.code)}"
    facts = [f"Status {kind.status}", f"type {code(kind.type)}", f"retry: {'yes' if kind.retry else 'no'}"]
    if kind.operators_only:
        facts.append("seen by operators only, of the `morpheus` command")
    yield f"{', '.join(facts)}."
    yield f"> {prose(kind.message)}"
    yield prose(kind.advice)
    if kind.operators:
        yield f"**Operators:** {prose(kind.operators)}"
