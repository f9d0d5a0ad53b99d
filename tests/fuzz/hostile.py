"""What schemathesis does not send: bytes that are no JSON, types that confuse, headers, paths and queries of a malicious client."""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import quote, urlencode

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from morpheus_common.ids import uuid7
from morpheus_gateway.middleware import SMALL_BODY_BYTES

from tests.e2e.operations import ROWS, Access, Json, Row, World
from tests.fuzz.answers import Answer
from tests.fuzz.people import People, Person
from tests.fuzz.wire import Headers, Request

MARKER: Final = "planted-marker-"
"""A word with this stands in what is sent, and may stand in no error."""
MAX_NESTING: Final = 64
BODY_LIMIT: Final = 16 * 1024 * 1024
PROMPTS: Final = ("POST /api/v1/chat/completions", "POST /api/v1/embeddings")
JSON: Final = (b"Content-Type", b"application/json")


@dataclass(frozen=True)
class Attack:
    """A request, and what may come of it. `judge` says what is wrong with the answer, if anything is."""

    kind: str
    operation: str
    request: Request
    judge: Callable[[Answer], str | None]


def only(*statuses: int) -> Callable[[Answer], str | None]:
    """Nothing but these statuses is right."""

    def judge(answer: Answer) -> str | None:
        if answer.status in statuses:
            return None
        return f"answered {answer.status} {answer.code}, not {' or '.join(map(str, statuses))}"

    return judge


def refused(answer: Answer) -> str | None:
    """Nothing but a refusal is right."""
    return None if 400 <= answer.status < 500 else f"answered {answer.status} {answer.code}, not with a refusal"


def anything(_: Answer) -> None:
    """What holds of every answer is enough."""


class Ground:
    """What attacks are made of: operations, and callers who may do them."""

    def __init__(self, people: People) -> None:
        self._people = people
        self.with_bodies = [label for label, row in ROWS.items() if row.body is not None]
        self.protected = [label for label, row in ROWS.items() if row.access is not Access.PUBLIC]
        self.with_objects = [label for label, row in ROWS.items() if row.objects]

    def owner(self, label: str) -> Person:
        return self._people.of(label)

    def world(self, label: str) -> World:
        return self._people.world(label, self.owner(label))

    def request(self, label: str, *, body: bytes | None = None, credential: str | None = "") -> Request:
        """Return a request that succeeds, with another body if there is one. `credential`: another, or None."""
        row, world = ROWS[label], self.world(label)
        method, _, path = label.partition(" ")
        for name in re.findall(r"{(\w+)}", path):
            value = world.llm if name == "model_id" else world.ids.get(row.objects.get(name, ""), uuid7())
            path = path.replace(f"{{{name}}}", quote(value, safe=""))
        query = urlencode(row.query(world))
        if body is None and row.body is not None:
            body = json.dumps(row.body(world)).encode()
        own = self._people.of(label).credential(row.access)
        shown = own if credential == "" else credential
        headers: Headers = ((b"Authorization", shown.encode("latin-1")),) if shown is not None else ()
        headers += (JSON,) if body is not None else ()
        return Request(method, (path + ("?" + query if query else "")).encode(), headers, body)


# bodies

_NOT_JSON: Final[tuple[bytes, ...]] = (
    b"{",
    b'{"a": 1',
    b"{'a': 1}",
    b'{"a": 1} x',
    b'{"a": 1}{"a": 1}',
    b'{"a": NaN}',
    b'{"a": Infinity}',
    b'{"a": -Infinity}',
    b"\xef\xbb\xbf{}",
    '{"a": "é"}'.encode("latin-1"),
    '{"a": 1}'.encode("utf-16"),
    '{"a": 1}'.encode("utf-32-le"),
    b'{"a": "\xff\xfe"}',
    b'{"a": "\xed\xa0\x80"}',
    b'{"a": "\xc0\xaf"}',
    b'{"a": "\n"}',
    b'{"a": "\x00"}',
    b'{"a": 01}',
    b'{"a": +1}',
    b'{"a": .5}',
    b'{"a": 0x10}',
    b'{"a": "\\x41"}',
    b'{"a": "\\ud83"}',
    b"{a: 1}",
    b'{"a": 1,}',
    b"[1,]",
    b"{/* */}",
    b"True",
    b"nul",
    b"[" * 30_000,
    b'{"a":' * 10_000,
    b"a=1&b=2",
    b"<a/>",
    b"\x00",
    b"\xff",
)
_NO_OBJECT: Final = (b"null", b"[]", b'"text"', b"0", b"true", b"[{}]", b"[[]]", b"1e999")
OPERATORS: Final[tuple[Any, ...]] = (
    {"$ne": None},
    {"$gt": ""},
    {"$regex": ".*"},
    {"$where": "sleep(1000)"},
    {"$in": ["a"]},
    {"$set": {"is_admin": True}},
    ["planted-marker-list"],
    [{"$ne": 1}],
    {"": ""},
    {"__proto__": {"a": 1}},
)
"""What a string is not; a database would obey some of it."""
_VALUES: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, -1, 1.5, 2**31, 2**63, 2**64, -(2**63) - 1, 10**30, 1e300, -0.0),
    *("", " ", "\t\n", "\u0000", "a\u0000b", "\ud800", "\udfff\ud800", "\ufeff", "\u202e\u2066", "\uffff", "💥" * 50),
    *(
        "planted-marker-text",
        "x" * 300,
        "x" * 5_000,
        "ﬁ",
        "İ",
        "ß" * 400,
        "０ｘ",
        "%00",
        "%2e%2e%2f",
        "../../etc/passwd",
    ),
    *(
        "' OR '1'='1",
        '"; drop',
        "{{7*7}}",
        "${7*7}",
        "<script>alert(1)</script>",
        "\r\nX-Injected: 1",
        "=cmd|' /C calc'!A0",
    ),
    *(
        "0x" + "0" * 64,
        "0x" + "g" * 64,
        "0X" + "A" * 64,
        "1e3",
        "NaN",
        "null",
        "true",
        "2026-13-45",
        "0000-00-00T00:00:00Z",
    ),
    *("9999-12-31T23:59:59.999999999+23:59", "2026-01-01T00:00:00", "a@b", "a@[127.0.0.1]", "ä@bücher.example"),
    *([], {}, [[]], [None], [{}], {"a": {"b": {"c": None}}}, list(range(200)), ["x"] * 101),
    *OPERATORS,
)


def _nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


def bodies(ground: Ground) -> SearchStrategy[Attack]:
    """Bodies of every operation that takes one: no JSON, no object, fields of other types, too deep, too long."""
    return st.sampled_from(ground.with_bodies).flatmap(
        lambda label: st.one_of(
            _broken(ground, label),
            _fields(ground, label),
            _fields(ground, label),
            _depths(ground, label),
            _texts(ground, label),
        )
    )


def _broken(ground: Ground, label: str) -> SearchStrategy[Attack]:
    """All that is no JSON is 400; JSON that is no object is refused, where an object is wanted."""
    name = "body is no JSON"
    no_json = st.sampled_from(_NOT_JSON).map(
        lambda body: Attack(name, label, ground.request(label, body=body), only(400))
    )
    any_bytes = st.binary(min_size=1, max_size=60).map(
        lambda body: Attack("body of any bytes", label, ground.request(label, body=body), _refused_or_ends(label))
    )
    no_object = st.sampled_from(_NO_OBJECT).map(
        lambda body: Attack(
            "body is no object", label, ground.request(label, body=body), _refused_unless_optional(label, body)
        )
    )
    return st.one_of(no_json, no_json, any_bytes, no_object)


def _refused_or_ends(label: str) -> Callable[[Answer], str | None]:
    return anything if "session" in label or "logout" in label or "rotate" in label else refused


def _refused_unless_optional(label: str, body: bytes) -> Callable[[Answer], str | None]:
    return _refused_or_ends(label) if body == b"null" else refused


def _fields(ground: Ground, label: str) -> SearchStrategy[Attack]:
    """One field is of another type; where a scalar is wanted, an object or a list is refused."""

    def attack(field: str, value: Any) -> Attack:
        body = _body_of(ROWS[label], ground.world(label))
        body[field] = value
        is_container = value in OPERATORS and _is_scalar(label, field)
        raw = json.dumps(body).encode()
        return Attack(
            "field of another type", label, ground.request(label, body=raw), refused if is_container else anything
        )

    row = ROWS[label]
    names = sorted({*_body_of(row, ground.world(label)), *_MORE_FIELDS.get(label, ())})
    if not names:
        return _broken(ground, label)
    return st.builds(attack, st.sampled_from(names), st.sampled_from(_VALUES))


_MORE_FIELDS: Final = {
    "POST /api/v1/auth/register": ("name", "invite_code"),
    "POST /api/v1/auth/keys": ("expires_at", "scopes", "allowed_models"),
    "PATCH /api/v1/auth/keys/{key_id}": ("expires_at", "scopes", "allowed_models"),
    "POST /api/v1/auth/delegation": ("expiry", "is_active"),
    "PUT /api/v1/automation/settings": ("session_duration",),
    "POST /api/v1/session/modelsession": ("sessionDuration", "directPayment", "failover"),
    "POST /api/v1/session/bidsession": ("sessionDuration", "directPayment", "failover"),
    "POST /api/v1/chat/completions": ("stream", "session_id", "stream_options", "tools", "n", "max_tokens"),
    "POST /api/v1/embeddings": ("session_id", "stream", "dimensions", "encoding_format"),
}
_PASSED_ON: Final = frozenset(
    {"stream_options", "tools", "n", "max_tokens", "dimensions", "encoding_format", "input", "messages"}
)
"""Fields of prompts that the provider judges."""


def _is_scalar(label: str, field: str) -> bool:
    return not (label in PROMPTS and field in _PASSED_ON)


def _body_of(row: Row, world: World) -> Json:
    assert row.body is not None
    return dict(row.body(world))


def _depths(ground: Ground, label: str) -> SearchStrategy[Attack]:
    """64 levels are taken of prompts, 65 are not; elsewhere no depth breaks anything."""

    def attack(levels: int) -> Attack:
        body = json.dumps(_body_of(ROWS[label], ground.world(label)))[:-1].rstrip()
        comma = "," if body.endswith(("}", "]", '"')) or body[-1:].isalnum() else ""
        raw = f'{body}{comma}"x":'.encode() + _nested(levels - 1) + b"}"
        judge: Callable[[Answer], str | None] = anything
        if label in PROMPTS:
            judge = only(200) if levels <= MAX_NESTING else only(400)
        return Attack("nesting", label, ground.request(label, body=raw), judge)

    return st.builds(attack, st.sampled_from([2, 32, 63, 64, 65, 66, 200, 990, 1_000, 1_010, 5_000, 30_000]))


def _texts(ground: Ground, label: str) -> SearchStrategy[Attack]:
    """Any text in any field of text, and names that nobody asked for."""

    def attack(field: str, text: str, extra: str) -> Attack:
        body = {**_body_of(ROWS[label], ground.world(label)), extra: MARKER + text}
        if field in body and isinstance(body[field], str):
            body[field] = MARKER + text
        return Attack("any text", label, ground.request(label, body=json.dumps(body).encode()), anything)

    names = sorted(_body_of(ROWS[label], ground.world(label))) or ["none"]
    text = st.text(st.characters(), max_size=60)
    return st.builds(attack, st.sampled_from(names), text, text)


def sizes(ground: Ground) -> Iterable[Attack]:
    """Bodies at their limits, and one byte more; by every path that leads to the operation."""
    too_long = b"{" + b" " * (SMALL_BODY_BYTES - 1) + b"}"
    for label in ("POST /api/v1/auth/login", "POST /api/v1/session/closesession", "PUT /api/v1/automation/settings"):
        whole = ground.request(label, body=too_long)
        just = b"{" + b" " * (SMALL_BODY_BYTES - 2) + b"}"
        yield Attack("size", label, replace(whole, body=just), _not(413))
        yield Attack("size", label, whole, only(413))
        for target in (whole.target + b"/", whole.target + b"//", whole.target.replace(b"/v1/", b"/v1//")):
            yield Attack("size", label, replace(whole, target=target), only(404, 405, 413))


def large_sizes(ground: Ground) -> Iterable[Attack]:
    """The same of a prompt's body."""
    whole = ground.request(PROMPTS[0])
    assert whole.body is not None
    for size, judge in ((BODY_LIMIT, only(200)), (BODY_LIMIT + 1, only(413))):
        padded = whole.body[:-1] + b" " * (size - len(whole.body)) + b"}"
        yield Attack("size", PROMPTS[0], replace(whole, body=padded), judge)


def _not(*statuses: int) -> Callable[[Answer], str | None]:
    def judge(answer: Answer) -> str | None:
        return f"answered {answer.status} {answer.code}" if answer.status in statuses else None

    return judge


# headers

_ODD: Final = (
    *(
        b"",
        b" ",
        b"\xff",
        b"\xc3\xa4",
        b"\xe2\x80\xae",
        b"x" * 300,
        b"x" * 5_000,
        b"a,b",
        b"a;b=c",
        b'"',
        b"'",
        b"*",
        b"/",
        b"null",
    ),
    *(b"-1", b"1e9", b"%00", b"{}", b"=?utf-8?q?x?=", b"application/json, text/event-stream", b"planted-marker-header"),
)
_BY_NAME: Final[dict[bytes, tuple[bytes, ...]]] = {
    b"Accept": (
        *(b"*/*", b"text/event-stream;q=1.001", b"text/event-stream;q=", b"text/event-stream;q=nan", b";q=1", b",,,"),
        *(
            b"text/event-stream;q=0.5, application/json;q=0.50001",
            b"a/b;" * 500,
            b"text/event-stream; q=1; q=0",
            b"image/png",
        ),
    ),
    b"Content-Type": (
        *(
            b"application/json; charset=utf-16",
            b"application/JSON",
            b"text/json",
            b"application/problem+json",
            b"text/plain",
        ),
        *(
            b"multipart/form-data",
            b"application/x-www-form-urlencoded",
            b"application/json;",
            b";",
            b"application",
            b"a/b/c",
        ),
    ),
    b"If-None-Match": (b"*", b'W/"x"', b'"', b'"a", ', b",", b'"' + b"a" * 5_000 + b'"'),
    b"Idempotency-Key": (b"a", b"a" * 255, b"a" * 256, b"a b", b"\x7f", b"~", b"!", b"\xff"),
    b"X-Request-Id": (b"mine", b"a" * 128, b"a" * 129, b"a\tb"),
    b"X-Client-Request-Id": (b"mine", b"a b"),
    b"X-Forwarded-For": (b"1.2.3.4", b"::1", b"a" * 1_000, b"," * 1_000, b"1.2.3.4:80, [::1]:1", b"999.1.1.1"),
    b"X-Forwarded-Proto": (b"https", b"http"),
    b"X-HTTP-Method-Override": (b"DELETE",),
    b"X-Original-URL": (b"/api/v1/auth/me",),
    b"Origin": (b"null", b"https://evil.example", b"file://"),
    b"Range": (b"bytes=0-1", b"bytes=-1", b"a"),
    b"Expect": (b"100-continue", b"x"),
    b"TE": (b"trailers, deflate",),
    b"Content-Encoding": (b"gzip", b"br"),
    b"traceparent": (
        b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01",
        b"00-x",
        b"ff-" + b"f" * 32 + b"-" + b"f" * 16 + b"-ff",
    ),
    b"Cookie": (b"a=b", b"session=" + b"x" * 4_000),
}
_LABELS: Final = (
    *(
        "GET /api/v1/models",
        "GET /api/v1/models/{model_id}",
        "GET /api/v1/auth/keys",
        "GET /api/v1/session",
        "GET /health",
    ),
    *("POST /api/v1/session/modelsession", "POST /api/v1/session/closesession", "PUT /api/v1/automation/settings"),
    *(*PROMPTS, "POST /api/v1/auth/login", "GET /api/v1/usage"),
)


def headers(ground: Ground) -> SearchStrategy[Attack]:
    """Headers that are odd, twice, long or many."""

    def attack(label: str, name: bytes, value: bytes, *, twice: bool) -> Attack:
        whole = ground.request(label)
        kept = tuple(item for item in whole.headers if item[0].lower() != name.lower())
        added = ((name, value),) * (2 if twice else 1)
        return Attack(f"header {name.decode()}", label, replace(whole, headers=kept + added), anything)

    def many(label: str, count: int) -> Attack:
        whole = ground.request(label)
        added = tuple((f"X-{number}".encode(), b"planted-marker-many") for number in range(count))
        return Attack("many headers", label, replace(whole, headers=whole.headers + added), anything)

    named = st.sampled_from(sorted(_BY_NAME)).flatmap(
        lambda name: st.tuples(st.just(name), st.sampled_from((*_BY_NAME[name], *_ODD)))
    )
    odd = st.builds(
        lambda label, pair, twice: attack(label, *pair, twice=twice),
        st.sampled_from(_LABELS),
        named,
        st.sampled_from([False, False, True]),
    )
    return st.one_of(odd, odd, odd, st.builds(many, st.sampled_from(_LABELS), st.sampled_from([50, 99, 500])))


# credentials


def credentials(ground: Ground) -> SearchStrategy[Attack]:
    """Every protected operation, asked by nobody, by the wrong kind, by what looks right, twice, and in the query."""

    def attack(label: str, kind: str) -> Attack:
        row, owner = ROWS[label], ground.owner(label)
        name = f"credential: {kind}"
        key, token = f"Bearer {owner.key}", f"Bearer {owner.access_token}"
        head, claims, _ = owner.access_token.split(".")
        unauthorised = only(401)
        if kind == "none":
            return Attack(name, label, ground.request(label, credential=None), unauthorised)
        if kind == "another kind":
            if row.access is Access.EITHER:
                return Attack(name, label, ground.request(label, credential="Basic dXNlcjpwYXNz"), unauthorised)
            return Attack(
                name, label, ground.request(label, credential=token if row.access is Access.KEY else key), unauthorised
            )
        if kind == "twice":
            whole = ground.request(label)
            return Attack(name, label, replace(whole, headers=(*whole.headers, whole.headers[0])), only(400))
        if kind == "query":
            whole = ground.request(label, credential=None)
            mark = b"&" if b"?" in whole.target else b"?"
            query = f"access_token={owner.access_token}&api_key={owner.key}&key={owner.key}"
            return Attack(name, label, replace(whole, target=whole.target + mark + query.encode()), unauthorised)
        forged = {
            "nobody's key": f"Bearer sk-{'a' * 6}.{'b' * 49}",
            "another's checksum": f"Bearer {owner.key[:-1]}{'x' if owner.key[-1] != 'x' else 'y'}",
            "cut key": key[:-1],
            "key in other case": key.swapcase(),
            "no signature": f"Bearer {head}.{claims}.",
            "algorithm none": f"Bearer eyJhbGciOiJub25lIn0.{claims}.",
            "another signature": token[:-6] + "AAAAAA",
            "refresh token": f"Bearer {owner.refresh_token}",
            "empty": "Bearer ",
            "blank": " ",
            "basic": "Basic dXNlcjpwYXNz",
            "latin": "Bearer äöü",
            "long": "Bearer " + "a" * 6_000,
            "braces": 'Bearer {"$ne": null}',
            "list": f"Bearer {owner.key}, Bearer {owner.key}",
        }
        return Attack(name, label, ground.request(label, credential=forged[kind]), unauthorised)

    kinds = ("none", "another kind", "twice", "query", *_FORGED)
    return st.builds(attack, st.sampled_from(ground.protected), st.sampled_from(kinds))


_FORGED: Final = (
    *("nobody's key", "another's checksum", "cut key", "key in other case", "no signature", "algorithm none"),
    *("another signature", "refresh token", "empty", "blank", "basic", "latin", "long", "braces", "list"),
)


def strangers(ground: Ground) -> SearchStrategy[Attack]:
    """Another tenant's objects, by their true ids: as if they did not exist."""

    def attack(label: str) -> Attack:
        other = ground.owner("GET /api/v1/auth/me").credential(ROWS[label].access)
        request = ground.request(label, credential=other)
        if label in PROMPTS:
            kind = ROWS[label].objects["session_id"]
            body = {**_body_of(ROWS[label], ground.world(label)), "session_id": ground.owner(label).ids[kind]}
            request = replace(request, body=json.dumps(body).encode())
        return Attack("another's object", label, request, only(404))

    return st.builds(attack, st.sampled_from(ground.with_objects))


# paths and queries


def paths(ground: Ground) -> SearchStrategy[Attack]:
    """Ways of writing a path that a filter in front and a router behind could read differently: nobody gets in by them."""

    def attack(label: str, change: Callable[[str], str | bytes], method: str | None) -> Attack:
        whole = ground.request(label, credential=None)
        path, mark, query = whole.target.decode("latin-1").partition("?")
        changed = change(path)
        target = changed if isinstance(changed, bytes) else changed.encode("latin-1")
        request = replace(whole, method=method or whole.method, target=target + (mark + query).encode())
        protected = ROWS[label].access is not Access.PUBLIC
        return Attack("path", label, request, _shut if protected else anything)

    changes = st.sampled_from(_CHANGES)
    methods = st.sampled_from(
        [None, None, None, "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE", "QUERY", "get", "PROPFIND"]
    )
    return st.builds(attack, st.sampled_from(sorted(ROWS)), changes, methods)


def _shut(answer: Answer) -> str | None:
    if answer.method == "OPTIONS" and answer.status in {200, 204}:
        return None
    return f"nobody was answered {answer.status}" if answer.status < 400 else None


def _cut_in(path: str, inserted: str) -> str:
    head, _, tail = path.rpartition("/")
    return f"{head}{inserted}{tail}"


_CHANGES: Final[Sequence[Callable[[str], str | bytes]]] = (
    lambda path: path + "/",
    lambda path: path + "//",
    lambda path: "/" + path,
    lambda path: path.replace("/v1/", "/v1//"),
    lambda path: _cut_in(path, "/./"),
    lambda path: _cut_in(path, "/x/../"),
    lambda path: _cut_in(path, "%2F"),
    lambda path: _cut_in(path, "%2f"),
    lambda path: _cut_in(path, "%5C"),
    lambda path: _cut_in(path, "\\"),
    lambda path: _cut_in(path, "/%2e%2e/"),
    lambda path: _cut_in(path, "%252F"),
    lambda path: path + "%00",
    lambda path: path + "%0d%0aX-Injected:%201",
    lambda path: path + "%ff",
    lambda path: path + "%20",
    lambda path: path + ";a=b",
    lambda path: path + "%3F",
    lambda path: path + "#a",
    lambda path: path + "/planted-marker-path",
    lambda path: path + "/" + "a" * 3_000,
    lambda path: path + "/" + "a" * 70_000,
    lambda path: path.upper(),
    lambda path: path.replace("/api", "/API"),
    lambda path: path.replace("/api/v1", "/v1"),
    lambda path: path.replace("/api/v1", "/api/v1/models/..%2f.."),
    lambda path: "/api/v1/models/.." + path.removeprefix("/api/v1"),
    lambda path: "http://evil.example" + path,
    lambda path: path.encode() + "/ä".encode(),
    lambda path: path.encode() + b"/\xff\xfe",
    lambda path: path.encode() + b"/%e2%80%ae%c0%af",
    lambda path: path + ".json",
    lambda path: path + "%",
    lambda path: path + "%zz",
    lambda path: "".join(f"%{ord(letter):02x}" if letter.isalpha() else letter for letter in path),
    lambda _: "*",
    lambda _: "",
)

_QUERIES: Final = (
    *("GET /api/v1/session/list", "GET /api/v1/session/quote", "GET /api/v1/automation/decisions", "GET /api/v1/usage"),
    *("GET /api/v1/auth/delegation", "POST /api/v1/session/approve", "POST /api/v1/session/modelsession"),
    *("POST /api/v1/session/bidsession", "GET /api/v1/models", "GET /api/v1/auth/keys", "GET /health"),
)
_NAMES: Final = (
    *("limit", "skip", "ended", "model_id", "bid_id", "duration", "from", "to", "group_by", "amount"),
    *("limit[]", "limit[$gt]", "model_id[$ne]", "__proto__", "", "planted-marker-name", "x" * 70, "ä"),
)
_WORDS: Final = (
    *(
        "",
        "0",
        "1",
        "-1",
        "+1",
        "1.0",
        "1e2",
        "01",
        " 1",
        "1 ",
        "١",
        "１",
        "1_0",
        "0x10",
        "101",
        "9" * 30,
        "9" * 5_000,
        "null",
    ),
    *(
        "true",
        "True",
        "yes",
        "on",
        "2",
        "NaN",
        "Infinity",
        "\x00",
        "a\x00",
        "\ud800",
        "%",
        "{}",
        "[]",
        '{"$ne":1}',
        "planted-marker-word",
    ),
    *(
        "0x" + "0" * 64,
        "0X" + "0" * 64,
        "0x" + "z" * 64,
        "day",
        "DAY",
        "2026-11-27",
        "2026-02-30",
        "0001-01-01",
        "9999-12-31",
    ),
    *(
        "2026-11-27T00:00:00Z",
        "2026-11-27T00:00:00+99:00",
        "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59-23:59",
        "x" * 300,
    ),
)


def queries(ground: Ground) -> SearchStrategy[Attack]:
    """Parameters of other types, that nobody asked for, and twice."""

    def attack(label: str, pairs: list[tuple[str, str]]) -> Attack:
        whole = ground.request(label)
        target = whole.target + (b"&" if b"?" in whole.target else b"?")
        target += urlencode(pairs, errors="surrogatepass").encode()
        names = [part.partition("=")[0] for part in target.decode().partition("?")[2].split("&")]
        return Attack(
            "query", label, replace(whole, target=target), refused if len(names) > len(set(names)) else anything
        )

    pairs = st.lists(st.tuples(st.sampled_from(_NAMES), st.sampled_from(_WORDS)), min_size=1, max_size=4)
    return st.builds(attack, st.sampled_from(_QUERIES), pairs)


def side_effects(ground: Ground) -> Iterable[Attack]:
    """HEAD and OPTIONS of operations that do something do nothing."""
    for label in ROWS:
        method, _, path = label.partition(" ")
        if method == "GET" or f"GET {path}" in ROWS:
            continue
        whole = ground.request(label, body=None)
        yield Attack("HEAD", label, replace(whole, method="HEAD", body=None), _shut)
        yield Attack("OPTIONS", label, replace(whole, method="OPTIONS", body=None), _shut)


KINDS: Final[dict[str, Callable[[Ground], SearchStrategy[Attack]]]] = {
    "bodies": bodies,
    "headers": headers,
    "credentials": credentials,
    "another's objects": strangers,
    "paths": paths,
    "queries": queries,
}
LISTS: Final[tuple[Callable[[Ground], Iterable[Attack]], ...]] = (sizes, side_effects, large_sizes)
