"""A page for each endpoint, from the OpenAPI document: what it takes and gives, how it fails, and programs that call it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from morpheus_common.errors import CATALOGUE

from morpheus_site.generated import snippets
from morpheus_site.generated.answers import is_recorded, recorded
from morpheus_site.generated.schemas import Field, Schemas
from morpheus_site.generated.text import as_json, block, code, from_below, page, prose, table

Json = dict[str, Any]

CREDENTIALS = {
    (): "none; one that is presented is not looked at",
    ("accessToken",): "an access token",
    ("apiKey",): "an API key",
    ("accessToken", "apiKey"): "an API key or an access token",
}
SCOPES = {"session": "sessions", "chat": "chat", "embeddings": "chat", "automation": "automation", "usage": "usage"}
"""The scope that an API key needs, by the tag of an endpoint that asks for one."""

SPENDS = {
    "create_model_session": "This locks MOR on chain until the session is closed: real money, of the gateway's wallet.",
    "create_bid_session": "This locks MOR on chain until the session is closed: real money, of the gateway's wallet.",
    "approve_spending": "This sends a transaction that lets a contract take MOR of the gateway's wallet. No session needs it.",
    "create_chat_completion": "The prompt uses what the session has paid for. With automation on, it may open a session, which locks MOR.",
    "create_embeddings": "The request uses what the session has paid for. With automation on, it may open a session, which locks MOR.",
    "ping_session": "This runs a prompt of one token in the session, and closes a session that does not answer.",
    "close_session": "The stake of a session closed early stays on hold on chain for a while.",
    "update_automation_settings": "With automation on, prompts open sessions by themselves, which lock MOR.",
}
"""What a call costs, of those that cost something."""
ENDS = {
    "delete_user_account": "This cannot be undone. All credentials stop working at once, and all sessions are closed on chain.",
    "delete_api_key": "The key is refused everywhere within a second, for good, and its sessions are closed on chain.",
    "delete_private_key": "This cannot be undone: there is no other copy here.",
    "delete_delegation": "This forgets the delegation here. On chain it stays what it is until its delegator disables it.",
    "rotate_api_key": "The secret in use stops working when the grace is over. The new one is shown here and never again.",
    "change_password": "All other logins of the account end.",
    "reset_password": "All logins of the account end.",
    "logout": "The login's tokens are refused everywhere within a second.",
    "store_private_key": "This replaces a private key that is stored already. Nothing uses it yet: the gateway signs with its own wallet.",
    "refresh_token": "The refresh token is spent by this: store the new one before you forget the old one.",
}
"""What a call puts an end to, of those that do."""

VARIABLES = {
    "BASE_URL": "where the gateway is, with `/api/v1`: `https://gateway.example/api/v1`",
    "ACCESS_TOKEN": "`access_token` of a [login](api/auth/login.md)",
    "API_KEY": "`key` of a [new API key](api/auth/create-api-key.md)",
    "REFRESH_TOKEN": "`refresh_token` of a [login](api/auth/login.md)",
    "EMAIL": "the account's e-mail",
    "PASSWORD": "the account's password",
    "NEW_PASSWORD": "the password to have from now on",
    "RESET_TOKEN": "the token that the operator made",
    "DELETION_TOKEN": "what `status_url` of a [deletion](api/auth/delete-user-account.md) ends with",
    "KEY_ID": "`id` of one of [your keys](api/auth/get-api-keys.md)",
    "MODEL_ID": "`blockchainID` of one of the [models](api/models/list-models.md)",
    "BID_ID": "`bid_id` of a [quote](api/session/quote-session.md), or one of a model's rated bids",
    "OPERATION_ID": "`operation_id` of an answer that did not wait, or of a [decision](api/automation/list-automation-decisions.md)",
    "PRIVATE_KEY": "64 hex digits, `0x` optional",
    "DELEGATE_ADDRESS": "the gateway's address on chain; its operator names it",
    "DELEGATION": "one signed delegation, as JSON",
    "DELEGATION_ID": "`id` of one of [your delegations](api/auth/get-user-delegations.md)",
}
"""What examples take from the environment, and where one gets it. Links start at the documentation's root."""

EVERYWHERE = ("X-Request-Id", "X-Client-Request-Id", "WWW-Authenticate")
"""Headers that the index tells of once for all endpoints."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One operation of the document."""

    document: Json
    method: str
    path: str
    operation: Json

    @property
    def id(self) -> str:
        """The operation's id."""
        return str(self.operation["operationId"])

    @property
    def tag(self) -> str:
        """The operation's only tag."""
        return str(self.operation["tags"][0])

    @property
    def file(self) -> str:
        """Where its page is, from the documentation's root."""
        return f"api/{self.tag}/{self.id.replace('_', '-')}.md"

    @property
    def title(self) -> str:
        """What it is called."""
        return str(self.operation["summary"])

    @property
    def summary(self) -> str:
        """The first sentence of what it does."""
        text = " ".join(self.operation.get("description", "").partition("\n\n")[0].split())
        return text.partition(". ")[0].rstrip(".") + "." if text else ""

    @property
    def schemas(self) -> Schemas:
        """The schemas that it refers to."""
        return Schemas(self.document.get("components", {}).get("schemas", {}))

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of credential that it takes."""
        return tuple(sorted({kind for scheme in self.operation.get("security", []) for kind in scheme}))

    @property
    def responses(self) -> dict[int, Json]:
        """Its answers by status, all references followed."""
        told = self.operation["responses"].items()
        return {int(status): self._follow(answer) for status, answer in told if status != "default"}

    @property
    def codes(self) -> list[str]:
        """The codes of errors that it can give, in the order of the catalogue."""
        found = {
            name
            for status, answer in self.responses.items()
            if status >= 400
            for content in answer.get("content", {}).values()
            for name in content.get("examples", {})
        }
        return [name for name in CATALOGUE if name in found]

    def snippets(self) -> list[snippets.Snippet]:
        """Return the programs that call it."""
        return list(snippets.snippets(self.method, self.path, self.operation))

    def _follow(self, part: Json) -> Json:
        while "$ref" in part:
            found: Any = self.document
            for name in part["$ref"].removeprefix("#/").split("/"):
                found = found[name]
            part = found
        return part

    # the page

    def page(self) -> str:
        """Return its page."""
        return page(
            f"# {self.title}",
            code(f"{self.method} {self.path}"),
            prose(self.operation.get("description", "")),
            f"**Credential:** {self._credential()}.",
            self._careful(),
            self._parameters(),
            self._body(),
            self._examples(),
            *self._answers(),
            self._headers(),
            self._errors(),
        )

    def _credential(self) -> str:
        text = CREDENTIALS[self.kinds]
        if "reauthentication_required" in self.codes:
            text += " of a login of the last hour"
        if "insufficient_scope" in self.codes:
            text += f" with the scope {code(SCOPES[self.tag])}" if self.kinds == ("apiKey",) else ""
            text += f"; a key needs the scope {code(SCOPES[self.tag])}" if len(self.kinds) > 1 else ""
        return text

    def _careful(self) -> str | None:
        told = [texts[self.id] for texts in (SPENDS, ENDS) if self.id in texts]
        return f"> **Careful:** {' '.join(told)}" if told else None

    def _parameters(self) -> str | None:
        found = self.operation.get("parameters", [])
        rows = [
            (
                code(item["name"]),
                item["in"],
                self.schemas.type_of(item["schema"]),
                "yes" if item.get("required") else "no",
                self.schemas.limits_of(item["schema"]),
                item.get("description", ""),
            )
            for item in found
        ]
        head = ("Name", "In", "Type", "Required", "Limits", "Meaning")
        return page("## Parameters", table(head, rows)) if rows else None

    def _body(self) -> str | None:
        body = self.operation.get("requestBody")
        if body is None:
            return None
        content = body["content"]["application/json"]
        need = "A JSON object." if body.get("required") else "A JSON object; it may be left out."
        examples = [block("json", as_json(example["value"])) for example in content.get("examples", {}).values()]
        return page(
            "## Body",
            need,
            self._about(content["schema"]),
            _taken(self.schemas.fields(content["schema"])),
            "For example:" if examples else None,
            *examples,
        )

    def _answers(self) -> Iterator[str]:
        yield "## Answer"
        for status, answer in self.responses.items():
            if status < 400:
                yield page(f"**{status}.** {prose(answer.get('description', ''))}", *self._contents(status, answer))

    def _contents(self, status: int, answer: Json) -> Iterator[str | None]:
        for kind, content in answer.get("content", {}).items():
            schema = content.get("schema", {})
            if kind != "application/json":
                yield f"As {code(kind)}: {prose(schema.get('description', ''))}"
                continue
            if not schema:
                continue
            yield self._about(schema)
            yield given(self.schemas.fields(schema))
            known = is_recorded(self.id, status)
            yield block("json", as_json(recorded(self.id, status) if known else self.schemas.example(schema)))

    def _about(self, schema: Json) -> str | None:
        told = [self.schemas.follow(form).get("description", "") for form in self.schemas.forms(schema)]
        return prose("\n\n".join(text for text in told if text)) or None

    def _headers(self) -> str | None:
        where: dict[str, list[str]] = {}
        meaning: dict[str, str] = {}
        for status, answer in self.responses.items():
            for name, header in answer.get("headers", {}).items():
                where.setdefault(name, []).append(str(status))
                meaning[name] = self._follow(header).get("description", "")
        failures = {str(status) for status in self.responses if status >= 400}
        rows = [
            (code(name), "every error" if set(found) == failures else ", ".join(found), meaning[name])
            for name, found in where.items()
            if name not in EVERYWHERE
        ]
        return page("## Headers of answers", table(("Name", "With", "Meaning"), rows)) if rows else None

    def _errors(self) -> str | None:
        rows = [
            (
                f"[{code(kind.code)}](../../errors.md#{kind.code})",
                str(kind.status),
                "yes" if kind.retry else "no",
                from_below(kind.advice, 2),
            )
            for kind in map(CATALOGUE.__getitem__, self.codes)
        ]
        return page("## Errors", table(("Code", "Status", "Retry", "What to do"), rows)) if rows else None

    def _examples(self) -> str:
        programs = self.snippets()
        requests = [request for _, request in snippets.requests_of(self.method, self.path, self.operation)]
        needed = dict.fromkeys(
            name
            for request in requests
            for language in snippets.LANGUAGES
            for name in snippets.variables_of(request, language)
        )
        rows = [(code(name), from_below(VARIABLES[name], 2)) for name in needed]
        sdk = self.id in snippets.SDK_OPERATIONS
        parts = ["## Examples", "They take from the environment:", table(("Variable", "What it is"), rows)]
        for language in snippets.LANGUAGES:
            heading = f"{language}, with OpenAI's SDK" if sdk and language != "curl" else language
            parts.append(f"### {heading}")
            parts += [block(one.fence, one.text) for one in programs if one.language == language]
        return page(*parts)


def _taken(fields: Iterator[Field]) -> str | None:
    """Return the table of what is taken."""
    rows = [
        (code(field.name), field.type, "yes" if field.required else "no", field.limits, field.description)
        for field in fields
    ]
    return table(("Field", "Type", "Required", "Limits", "Meaning"), rows) if rows else None


def given(fields: Iterator[Field]) -> str | None:
    """Return the table of what is given."""
    rows = [(code(field.name), field.type, field.words, field.description) for field in fields]
    return table(("Field", "Type", "Values", "Meaning"), rows) if rows else None


def endpoints(document: Json) -> list[Endpoint]:
    """Return the documented operations, in the document's order."""
    return [
        Endpoint(document, method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def endpoint_pages(document: Json) -> dict[str, str]:
    """Return the pages below `api/` by their path."""
    found = endpoints(document)
    tags = [tag["name"] for tag in document["tags"]]
    about = {tag["name"]: tag["description"] for tag in document["tags"]}
    pages = {"api/index.md": _index(found, tags, about, document)}
    for tag in tags:
        own = [endpoint for endpoint in found if endpoint.tag == tag]
        pages[f"api/{tag}/index.md"] = page(f"# API: {tag}", prose(about[tag]), _list(own, ""))
        pages |= {endpoint.file: endpoint.page() for endpoint in own}
    return pages


def _list(found: list[Endpoint], prefix: str) -> str:
    rows = [
        (
            f"[{endpoint.title}]({prefix}{endpoint.file.rpartition('/')[2]})",
            code(f"{endpoint.method} {endpoint.path}"),
            endpoint.summary,
        )
        for endpoint in found
    ]
    return table(("Endpoint", "Request", "What it does"), rows)


_HOW = """\
Every page here is written from the code, and every example on it is run against the gateway by its tests. They take \
what is yours from the environment, so that no secret stands in them:

```sh
export BASE_URL=https://gateway.example/api/v1
export ACCESS_TOKEN=…  # of a login: for the account and its keys
export API_KEY=…       # of a new key: for sessions and prompts
```

- `curl` 7.76 or newer. A body with variables in it is JSON: in a value of yours, `"` and `\\` need a `\\` in front of them.
- Python 3.11 or newer with `pip install openai`: its SDK brings along `httpx2`, which the examples use where the SDK has no call.
- Node 20 or newer: save an example as `example.mjs`. Where it imports `openai`, `npm install openai` first.

A credential is presented as `Authorization: Bearer …`, once, and never in an address. Errors have \
[one form](../errors.md)."""

_ALL = """\
These headers are the same for every endpoint; `WWW-Authenticate` is there with 401:"""


def _index(found: list[Endpoint], tags: list[str], about: dict[str, str], document: Json) -> str:
    declared = document.get("components", {}).get("headers", {})
    rows = [(code(name), declared[name]["description"]) for name in EVERYWHERE if name in declared]
    parts: list[str] = ["# API", _HOW]
    if rows:
        parts += [_ALL, table(("Header", "Meaning"), rows)]
    for tag in tags:
        parts += [f"## {tag}", prose(about[tag]), _list([one for one in found if one.tag == tag], f"{tag}/")]
    return page(*parts)
