"""Examples to copy, in three languages, made of what OpenAPI gives as examples.

Whatever is the reader's own comes from the environment: where the gateway is, credentials, ids. Nothing of it stands in
a file or in a shell's history, and what is copied runs. Python uses httpx2, which comes along with OpenAI's SDK: one
`pip install openai` is enough for all of it. JavaScript is for Node 20 or newer, as a module (`.mjs`), and uses `fetch`.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

Json = dict[str, Any]

BASE = "/api/v1"
"""What `BASE_URL` ends with, as OpenAI's SDKs want it."""


@dataclass(frozen=True, slots=True)
class Variable:
    """What the reader has in his environment. `is_json`: a value of JSON, not a text."""

    name: str
    is_json: bool = False


@dataclass(frozen=True, slots=True)
class Snippet:
    """One program. `key` names it among all: operation, example, language."""

    operation: str
    example: str
    language: str
    text: str

    @property
    def key(self) -> str:
        """Return its name."""
        return f"{self.operation}.{self.example}.{self.language}"

    @property
    def fence(self) -> str:
        """Return what its code block is marked with."""
        return {"curl": "sh", "Python": "python", "JavaScript": "js"}[self.language]


LANGUAGES = ("curl", "Python", "JavaScript")

CREDENTIALS = {"apiKey": "API_KEY", "accessToken": "ACCESS_TOKEN"}
"""The variable of each kind of credential, by its name in OpenAPI. Where both will do, it is the first."""

SECRET_FIELDS = {
    "email": Variable("EMAIL"),
    "password": Variable("PASSWORD"),
    "current_password": Variable("PASSWORD"),
    "new_password": Variable("NEW_PASSWORD"),
    "private_key": Variable("PRIVATE_KEY"),
    "delegate_address": Variable("DELEGATE_ADDRESS"),
    "signed_delegation_data": Variable("DELEGATION", is_json=True),
}
"""Fields of bodies that are everybody's own, though OpenAPI has an example."""

SHOWN = {
    "list_sessions": ("ended",),
    "quote_session": ("model_id", "duration"),
    "get_usage": ("group_by",),
}
"""Optional parameters that an example is better with."""

_STANDS_FOR = re.compile(r"<([a-z_]+)>")


@dataclass(frozen=True, slots=True)
class Request:
    """A request before it is written in a language. `query` and `body` hold values and `Variable`s."""

    operation: str
    method: str
    path: tuple[str | Variable, ...]
    query: tuple[tuple[str, Any], ...]
    credential: str | None
    body: Any
    empty: bool

    @property
    def variables(self) -> list[str]:
        """Return the names of what has to be in the environment, `BASE_URL` first."""
        found = ["BASE_URL", *([self.credential] if self.credential else [])]
        found += [part.name for part in self.path if isinstance(part, Variable)]
        found += [value.name for _, value in self.query if isinstance(value, Variable)]
        found += [variable.name for variable in _variables(self.body)]
        return list(dict.fromkeys(found))

    @property
    def streamed(self) -> bool:
        """Tell whether the answer comes in pieces."""
        return isinstance(self.body, dict) and self.body.get("stream") is True


def requests_of(method: str, path: str, operation: Json) -> Iterator[tuple[str, Request]]:
    """Yield a request for each example of an operation, with the example's name."""
    parameters = operation.get("parameters", [])
    values = {
        item["name"]: _own(item["name"], item["example"]) for item in parameters if item["in"] in {"path", "query"}
    }
    pieces = tuple(
        _of_path(values[piece[1:-1]]) if piece.startswith("{") else piece
        for piece in re.split(r"(\{[a-z_]+\})", path)
        if piece
    )
    shown = SHOWN.get(operation["operationId"], ())
    query = tuple(
        (item["name"], values[item["name"]])
        for item in parameters
        if item["in"] == "query" and (item.get("required") or item["name"] in shown)
    )
    kinds = {kind for scheme in operation.get("security", []) for kind in scheme}
    credential = next((variable for kind, variable in CREDENTIALS.items() if kind in kinds), None)
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    examples = content.get("examples") or {"": {"value": None}}
    empty = "204" in operation["responses"]
    for name, example in examples.items():
        body = _with_variables(example["value"])
        yield name, Request(operation["operationId"], method, pieces, query, credential, body, empty)


def snippets(method: str, path: str, operation: Json) -> Iterator[Snippet]:
    """Yield the programs of an operation: of each example one a language."""
    for name, request in requests_of(method, path, operation):
        for language, text in (
            ("curl", _curl(request)),
            ("Python", _python(request)),
            ("JavaScript", _javascript(request)),
        ):
            yield Snippet(request.operation, name or "only", language, text)


# values


def _own(name: str, example: Any) -> Any:
    """Return what stands for a parameter: an id is the reader's own, a model's name is the same everywhere."""
    if isinstance(example, str) and (match := _STANDS_FOR.fullmatch(example)):
        return Variable(match[1].upper())
    is_id = name.endswith("_id") and (name != "model_id" or str(example).startswith("0x"))
    return Variable(name.upper()) if is_id else example


def _of_path(value: Any) -> str | Variable:
    return value if isinstance(value, Variable) else quote(str(value), safe="")


def _with_variables(value: Any, name: str = "") -> Any:
    if name in SECRET_FIELDS:
        return SECRET_FIELDS[name]
    if isinstance(value, dict):
        return {key: _with_variables(part, key) for key, part in value.items()}
    if isinstance(value, list):
        return [_with_variables(part) for part in value]
    if isinstance(value, str) and (match := _STANDS_FOR.fullmatch(value)):
        return Variable(match[1].upper())
    return value


def _variables(value: Any) -> Iterator[Variable]:
    if isinstance(value, Variable):
        yield value
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for part in parts:
        yield from _variables(part)


def _path(request: Request) -> tuple[bool, tuple[str | Variable, ...]]:
    """Return whether a path is below `BASE_URL`, and the rest of it."""
    first = request.path[0]
    if isinstance(first, str) and first.startswith(f"{BASE}/"):
        return True, (first.removeprefix(BASE), *request.path[1:])
    return False, request.path


def _query(request: Request, variable: str) -> str:
    """Return the query with its question mark; a `Variable` stands as in `variable`, with `NAME` for its name."""
    pairs = [
        f"{name}={variable.replace('NAME', value.name) if isinstance(value, Variable) else quote(_word(value), safe='')}"
        for name, value in request.query
    ]
    return "?" + "&".join(pairs) if pairs else ""


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


# curl


def _curl(request: Request) -> str:
    below, path = _path(request)
    base = "$BASE_URL" if below else "${BASE_URL%/api/v1}"
    address = "".join(f"${part.name}" if isinstance(part, Variable) else part for part in path)
    options = "-sSN" if request.streamed else "-sS"
    lines = [f'curl {options} --fail-with-body "{base}{address}{_query(request, "$NAME")}"']
    if request.method != ("GET" if request.body is None else "POST"):
        lines.append(f"-X {request.method}")
    if request.credential:
        lines.append(f'-H "Authorization: Bearer ${request.credential}"')
    document = None
    if request.body is not None:
        lines.append('-H "Content-Type: application/json"')
        if any(_variables(request.body)):
            lines.append("-d @- <<JSON")
            document = _shell_json(request.body)
        else:
            quoted = json.dumps(request.body, ensure_ascii=False).replace("'", "'\\''")
            lines.append(f"-d '{quoted}'")
    text = " \\\n  ".join(lines)
    return f"{text}\n{document}\nJSON" if document else text


def _shell_json(value: Any) -> str:
    """Return JSON for a here-document: the shell puts in what stands in variables, and nothing else."""
    marks = list(_variables(value))
    order = iter(range(len(marks)))
    text = json.dumps(value, ensure_ascii=False, default=lambda _: f"\x00{next(order)}\x00")
    text = re.sub(r"[\\$`]", r"\\\g<0>", text.replace("\\u0000", "\x00"))
    for number, mark in enumerate(marks):
        shown = f"${mark.name}" if mark.is_json else f'"${mark.name}"'
        text = text.replace(f'"\x00{number}\x00"', shown)
    return text


# Python and JavaScript


@dataclass(frozen=True, slots=True)
class _Syntax:
    """How a language writes values."""

    words: tuple[str, str, str]
    bare_keys: bool
    variable: str
    parsed: str
    indent: str

    def write(self, value: Any, level: int = 0) -> str:
        """Return a value: on one line if it fits, else a line for each part."""
        flat = self._flat(value)
        if len(flat) + level * len(self.indent) <= 88 or not isinstance(value, dict | list) or not value:
            return flat
        inner = self.indent * (level + 1)
        if isinstance(value, dict):
            parts = [f"{inner}{self._key(key)}: {self.write(part, level + 1)},\n" for key, part in value.items()]
            return "{\n" + "".join(parts) + self.indent * level + "}"
        parts = [f"{inner}{self.write(part, level + 1)},\n" for part in value]
        return "[\n" + "".join(parts) + self.indent * level + "]"

    def _flat(self, value: Any) -> str:
        if isinstance(value, Variable):
            return (self.parsed if value.is_json else self.variable).replace("NAME", value.name)
        if isinstance(value, dict):
            inner = ", ".join(f"{self._key(key)}: {self._flat(part)}" for key, part in value.items())
            return f"{{ {inner} }}" if self.bare_keys and inner else f"{{{inner}}}"
        if isinstance(value, list):
            return f"[{', '.join(self._flat(part) for part in value)}]"
        if value is None or isinstance(value, bool):
            return self.words[0 if value is None else 2 - value]
        return json.dumps(value, ensure_ascii=False)

    def _key(self, key: str) -> str:
        return key if self.bare_keys and re.fullmatch(r"[A-Za-z_]\w*", key) else json.dumps(key, ensure_ascii=False)


_PYTHON = _Syntax(("None", "True", "False"), False, 'os.environ["NAME"]', 'json.loads(os.environ["NAME"])', "    ")
_SCRIPT = _Syntax(("null", "true", "false"), True, "process.env.NAME", "JSON.parse(process.env.NAME)", "  ")

PATIENCE = 120
"""Seconds that a Python example waits for an answer: opening a session takes up to 100."""


def _python(request: Request) -> str:
    if request.operation in _PYTHON_SDK:
        return _python_sdk(request)
    below, path = _path(request)
    base = "{os.environ['BASE_URL']}" if below else "{os.environ['BASE_URL'].removesuffix('/api/v1')}"
    address = "".join(f"{{os.environ['{part.name}']}}" if isinstance(part, Variable) else part for part in path)
    arguments = [f'f"{base}{address}"']
    if request.query:
        arguments.append(f"params={_PYTHON.write(_words(request.query), 1)}")
    if request.credential:
        arguments.append(f'headers={{"Authorization": f"Bearer {{os.environ[\'{request.credential}\']}}"}}')
    if request.body is not None:
        arguments.append(f"json={_PYTHON.write(request.body, 1)}")
    arguments.append(f"timeout={PATIENCE}")
    imports = ["import json"] if any(variable.is_json for variable in _variables(request.body)) else []
    return "\n".join(
        [
            *imports,
            "import os",
            "",
            "import httpx2",
            "",
            f"answer = httpx2.{request.method.lower()}(",
            *(f"    {argument}," for argument in arguments),
            ")",
            "answer.raise_for_status()",
            "print(answer.status_code)" if request.empty else "print(answer.json())",
        ]
    )


def _words(query: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    return {name: _word(value) if isinstance(value, bool) else value for name, value in query}


def _javascript(request: Request) -> str:
    if request.operation in _SCRIPT_SDK:
        return _javascript_sdk(request)
    below, path = _path(request)
    address = "".join(f"${{process.env.{part.name}}}" if isinstance(part, Variable) else part for part in path)
    if below:
        address = f"`${{process.env.BASE_URL}}{address}{_query(request, '${process.env.NAME}')}`"
    else:
        address = f'new URL("{address}", process.env.BASE_URL)'
    options = [] if request.method == "GET" else [f'  method: "{request.method}",\n']
    headers = [f"Authorization: `Bearer ${{process.env.{request.credential}}}`"] if request.credential else []
    if request.body is not None:
        headers.append('"Content-Type": "application/json"')
    if headers:
        options.append(f"  headers: {{ {', '.join(headers)} }},\n")
    if request.body is not None:
        options.append(f"  body: JSON.stringify({_SCRIPT.write(request.body, 1)}),\n")
    given = f", {{\n{''.join(options)}}}" if options else ""
    return "\n".join(
        [
            f"const answer = await fetch({address}{given});",
            "if (!answer.ok) throw new Error(`${answer.status} ${await answer.text()}`);",
            "console.log(answer.status);" if request.empty else "console.log(await answer.json());",
        ]
    )


# OpenAI's SDKs

_PYTHON_SDK = {
    "create_chat_completion": ("client.chat.completions.create", "print(answer.choices[0].message.content)"),
    "create_embeddings": ("client.embeddings.create", "print([len(vector.embedding) for vector in answer.data])"),
    "list_models": ("client.models.list", "print([model.id for model in answer.data])"),
    "get_model": ("client.models.retrieve", "print(answer.id, answer.owned_by)"),
}
_SCRIPT_SDK = {
    "create_chat_completion": ("client.chat.completions.create", "console.log(answer.choices[0].message.content);"),
    "create_embeddings": (
        "client.embeddings.create",
        "console.log(answer.data.map((vector) => vector.embedding.length));",
    ),
    "list_models": ("client.models.list", "console.log(answer.data.map((model) => model.id));"),
    "get_model": ("client.models.retrieve", "console.log(answer.id, answer.owned_by);"),
}
SDK_OPERATIONS = frozenset(_PYTHON_SDK)
"""What OpenAI's SDKs have a call for."""


def _sdk_arguments(request: Request) -> dict[str, Any] | str | None:
    """Return what the SDK's call is given: the fields of a body, or the model that the path names."""
    if request.body is not None:
        return dict(request.body)
    address = "".join(part for part in request.path if isinstance(part, str)).removeprefix(BASE)
    return address.removeprefix("/models").lstrip("/") or None


def _python_sdk(request: Request) -> str:
    call, shown = _PYTHON_SDK[request.operation]
    given = _sdk_arguments(request)
    lines = ["import os", "", "from openai import OpenAI", ""]
    lines.append('client = OpenAI(base_url=os.environ["BASE_URL"], api_key=os.environ["API_KEY"])')
    name = "stream" if request.streamed else "answer"
    if isinstance(given, dict):
        lines += [f"{name} = {call}("]
        lines += [f"    {field}={_PYTHON.write(value, 1)}," for field, value in given.items()]
        lines += [")"]
    else:
        lines.append(f"{name} = {call}({'' if given is None else json.dumps(given)})")
    if request.streamed:
        lines += ["for chunk in stream:", "    for choice in chunk.choices:"]
        lines += ['        print(choice.delta.content or "", end="", flush=True)']
    else:
        lines.append(shown)
    return "\n".join(lines)


def _javascript_sdk(request: Request) -> str:
    call, shown = _SCRIPT_SDK[request.operation]
    given = _sdk_arguments(request)
    lines = ['import OpenAI from "openai";', ""]
    lines.append("const client = new OpenAI({ baseURL: process.env.BASE_URL, apiKey: process.env.API_KEY });")
    name = "stream" if request.streamed else "answer"
    if isinstance(given, dict):
        lines += [f"const {name} = await {call}({{"]
        lines += [f"  {field}: {_SCRIPT.write(value, 1)}," for field, value in given.items()]
        lines += ["});"]
    else:
        lines.append(f"const {name} = await {call}({'' if given is None else json.dumps(given)});")
    if request.streamed:
        lines += ["for await (const chunk of stream) {"]
        lines += ['  for (const choice of chunk.choices) process.stdout.write(choice.delta.content ?? "");', "}"]
    else:
        lines.append(shown)
    return "\n".join(lines)


def variables_of(request: Request, language: str) -> list[str]:
    """Return what has to be in the environment of a program; an SDK always wants a key."""
    found = request.variables
    if request.operation in SDK_OPERATIONS and language != "curl" and "API_KEY" not in found:
        found.append("API_KEY")
    return found
