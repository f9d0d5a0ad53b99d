"""What holds of every answer of the gateway, whatever was asked."""

import json
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from morpheus_common.errors import CATALOGUE

MOST_SECONDS: Final = 20.0
"""Longest that an answer may take. A prompt may wait for its session, which a busy machine opens in seconds."""
MOST_RETRY_AFTER: Final = 60
NO_REQUEST: Final = "malformed_request"
"""Said before there is a request, so that nobody knows its path."""
SHORTEST_ECHO: Final = 8
"""Shorter texts stand in a message by chance."""

_OPENAI_ROUTE = re.compile(r"(?:/api)?/v1/(?:chat/completions|embeddings|models(?:/.+)?)")
_CACHEABLE = re.compile(r"(?:/api)?/v1/models(?:/.*)?|/\.well-known/jwks\.json|/health|/live|/ready|/docs.*|/llms.*")
_PROMPT = re.compile(r"(?:/api)?/v1/(?:chat/completions|embeddings)")
_LIMITED = re.compile(r"/api/v1/auth/(?:register|login|password|refresh)")
_LIMIT_HEADERS: Final = tuple(f"x-ratelimit-{what}-requests" for what in ("limit", "remaining", "reset"))
_GO_DURATION = re.compile(r"0s|\d+ms|(?:\d+h)?(?:\d+m)?\d+(?:\.\d{1,3})?s")
_INSIDES: Final = (
    "Traceback (most recent",
    *("site-packages", "morpheus_gateway", "morpheus_common", "morpheus_auth", "morpheus_sessions", ".py"),
    *("mongodb://", "nats://", "_INBOX", "pymongo", "pydantic.dev", "Pydantic"),
    *("$2b$", "$argon2"),
)
"""Words of stacks, inner addresses and hashes."""


@dataclass(frozen=True)
class Answer:
    """What came back. `path` as it was sent, without the query; `headers` in lower case, with all their values."""

    method: str
    path: str
    status: int
    headers: Mapping[str, Sequence[str]]
    body: bytes
    seconds: float = 0.0

    def header(self, name: str) -> str | None:
        """Return a header's value; of several, all of them."""
        values = self.headers.get(name)
        return None if values is None else ", ".join(values)

    @property
    def error(self) -> dict[str, Any] | None:
        """The error of the body, if it is one of our form."""
        try:
            body = json.loads(self.body)
        except ValueError:
            return None
        error = body.get("error") if isinstance(body, dict) and body.keys() == {"error"} else None
        return error if isinstance(error, dict) else None

    @property
    def code(self) -> str | None:
        """The code of the error."""
        return None if self.error is None else self.error.get("code")


def wrongs(answer: Answer, *, secrets: Iterable[str] = (), submitted: Iterable[str] = ()) -> list[str]:
    """Return what is wrong with an answer.

    `secrets` may stand in no answer. `submitted` are texts of the request: no error may quote them.
    """
    found = [*_of_all(answer), *_of_secrets(answer, secrets)]
    if answer.status >= 400:
        found += _of_errors(answer, submitted)
    return found


def _of_all(answer: Answer) -> Iterable[str]:
    ids = answer.headers.get("x-request-id", ())
    if len(ids) != 1 or not _is_uuid7(ids[0]):
        yield f"X-Request-Id is not one UUIDv7 but {list(ids)}"
    if answer.header("x-content-type-options") != "nosniff":
        yield "no `X-Content-Type-Options: nosniff`"
    is_no_request = answer.code == NO_REQUEST or (answer.method == "HEAD" and answer.status == 400)
    if answer.header("referrer-policy") != "no-referrer" and not is_no_request:
        yield "no `Referrer-Policy: no-referrer`"
    kept = answer.header("cache-control") or ""
    path = answer.path.removesuffix("/")
    may_be_kept = answer.status < 400 and _CACHEABLE.fullmatch(path) is not None
    if not (may_be_kept or "no-store" in kept or kept.startswith("no-cache, no-transform")):
        yield f"Cache-Control is {kept!r}"
    if (answer.header("content-type") or "").startswith("text/event-stream"):
        yield from _of_events(answer.body)
    if answer.seconds > MOST_SECONDS:
        yield f"it took {answer.seconds:.1f} s"
    told = [name for name in _LIMIT_HEADERS if name in answer.headers]
    if told and len(told) < len(_LIMIT_HEADERS):
        yield f"of the headers of a limit only {told}"
    if len(told) == len(_LIMIT_HEADERS):
        yield from _of_limits(*(answer.header(name) or "" for name in _LIMIT_HEADERS))
    is_limited = answer.method == "POST" and _LIMITED.fullmatch(path) is not None
    if is_limited and answer.status not in {400, 401, 408, 414, 431} and not told:
        yield "a limited route tells nothing of its limit"
    if answer.status == 401 and told:
        yield "who is not known is told of a limit"


def _of_events(body: bytes) -> Iterable[str]:
    """A stream is events of JSON, each a chunk or an error, and `[DONE]` is the last."""
    lines = [line.removeprefix(b"data: ") for line in body.split(b"\n") if line.startswith(b"data: ")]
    if not lines or lines[-1] != b"[DONE]":
        yield "a stream that does not end with [DONE]"
    for line in lines[:-1]:
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if not (isinstance(event, dict) and ("choices" in event or event.keys() == {"error"})):
            yield f"an event that is no chunk and no error: {line[:200]!r}"


def _is_uuid7(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text and uuid.UUID(text).version == 7
    except ValueError:
        return False


def _of_limits(limit: str, remaining: str, reset: str) -> Iterable[str]:
    if not (limit.isdecimal() and remaining.isdecimal() and int(remaining) <= int(limit)):
        yield f"a limit of {limit!r} with {remaining!r} remaining"
    if not _GO_DURATION.fullmatch(reset):
        yield f"x-ratelimit-reset-requests is {reset!r}"


def _of_secrets(answer: Answer, secrets: Iterable[str]) -> Iterable[str]:
    text = answer.body.decode(errors="replace") + "\n" + "\n".join(map(", ".join, answer.headers.values()))
    # what is wrong may be shown to everybody, a secret may not
    yield from (f"it holds the secret that begins with {secret[:4]!r}" for secret in secrets if secret in text)
    if answer.status >= 400:
        yield from (f"it tells of our insides: {word!r}" for word in _INSIDES if word in text)


def _of_errors(answer: Answer, submitted: Iterable[str]) -> Iterable[str]:
    if answer.method == "HEAD":
        return
    if answer.header("content-type") != "application/json":
        yield f"an error is {answer.header('content-type')}"
    error = answer.error
    if error is None:
        yield f"an error without our body: {answer.body[:200]!r}"
        return
    if error.keys() - {"details"} != {"message", "type", "param", "code"}:
        yield f"an error with the fields {sorted(error)}"
        return
    yield from _of_code(answer, error)
    # codes and names of fields are ours; a message may name near models, which are on the public list anyway
    ours = {"code", "type"} if error["code"] in CATALOGUE else set()
    shown = json.dumps({name: value for name, value in error.items() if name not in ours}, ensure_ascii=False)
    yield from (
        f"it quotes what was sent: {text[:40]!r}"
        for text in submitted
        if len(text) >= SHORTEST_ECHO and (text in shown or json.dumps(text, ensure_ascii=False)[1:-1] in shown)
    )
    if answer.status == 401 and "bearer" not in (answer.header("www-authenticate") or "").lower():
        yield "401 without `WWW-Authenticate: Bearer`"
    if answer.status == 405 and not answer.header("allow"):
        yield "405 without `Allow`"
    yield from _of_retries(answer, error)


def _of_code(answer: Answer, error: Mapping[str, Any]) -> Iterable[str]:
    kind = CATALOGUE.get(str(error["code"]))
    if kind is None:
        # a provider's own code is passed on
        if not (answer.status == 400 and _PROMPT.fullmatch(answer.path)):
            yield f"{error['code']!r} is not in the catalogue"
        return
    if (answer.status, error["type"]) != (kind.status, kind.type):
        yield f"{kind.code} came with {answer.status} {error['type']}"
    if answer.status >= 500 and answer.status not in {503, 504}:
        yield f"{answer.status} {kind.code}: {error['message']}"
    if not isinstance(error["message"], str) or not error["message"]:
        yield "an error without a message"


def _of_retries(answer: Answer, error: Mapping[str, Any]) -> Iterable[str]:
    after = answer.header("retry-after")
    if answer.status in {429, 503} and after is None:
        yield f"{answer.status} without Retry-After"
    if after is not None and not (after.isdecimal() and 1 <= int(after) <= MOST_RETRY_AFTER):
        yield f"Retry-After is {after!r}"
    if not _OPENAI_ROUTE.fullmatch(answer.path.removesuffix("/")) or error["code"] == NO_REQUEST:
        return
    told, kind = answer.header("x-should-retry"), CATALOGUE.get(str(error["code"]))
    if told not in {"true", "false"}:
        yield f"x-should-retry is {told!r}"
    elif kind is not None and told == "true" and not kind.retry:
        yield f"x-should-retry says that waiting cures {kind.code}"
