"""The HTTP API as one OpenAPI 3.1 document: served at `/openapi.json`, and written to docs/openapi.json by `make contracts`.

What an operation is for, takes and gives stands with its route. What follows from the code for all of them is added here.
"""

import json
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute

from morpheus_gateway import __version__
from morpheus_gateway.errors import ERROR_ANSWERS
from morpheus_gateway.routes import ROUTERS

DOCUMENT = Path("docs/openapi.json")
"""Where the committed document is, from the repository's root."""

NAME = "Morpheus API Gateway"
DESCRIPTION = "OpenAI's API on top of the Morpheus AI marketplace."

Json = dict[str, Any]

TAGS = {
    "root": "What this gateway is, and what its access tokens are verified with.",
    "health": "Is it well, is it up, may it get traffic.",
    "auth": "Accounts, logins, API keys, private keys and delegations.",
    "models": "What is on offer. Public.",
    "session": "Sessions of an API key: an amount of MOR is locked on chain for each while it is open.",
    "automation": "Sessions that the gateway opens and renews by itself.",
    "usage": "What prompts have used.",
    "chat": "Prompts to language models, as OpenAI has them.",
    "embeddings": "Texts into vectors, as OpenAI has them.",
}


@cache
def document() -> Json:
    """Return the document. It is the same whatever the settings are."""
    app = FastAPI(
        title=NAME,
        description=DESCRIPTION,
        version=__version__,
        openapi_tags=[{"name": name, "description": text} for name, text in TAGS.items()],
        servers=[{"url": "/", "description": "where this document came from"}],
        license_info={"name": "MIT", "identifier": "MIT"},
        responses=ERROR_ANSWERS,
        generate_unique_id_function=_operation_id,
    )
    for router in ROUTERS:
        app.include_router(router)
    made = app.openapi()
    for operation in operations(made):
        operation["summary"] = operation["summary"].replace("Api ", "API ")
        _show_examples(made, operation)
    return made


def _operation_id(route: APIRoute) -> str:
    return route.name


def operations(made: Json) -> Iterator[Json]:
    """Yield every operation of a document."""
    for methods in made["paths"].values():
        yield from methods.values()


def _show_examples(made: Json, operation: Json) -> None:
    """Put examples where tools look for them: beside the schemas, in which pydantic has them."""
    for parameter in operation.get("parameters", []):
        parameter["example"] = parameter["schema"].pop("examples")[0]
    for content in operation.get("requestBody", {}).get("content", {}).values():
        found = _examples_of(made, content["schema"])
        content["examples"] = {f"example-{number}": {"value": value} for number, value in enumerate(found, 1)}


def _examples_of(made: Json, schema: Json) -> list[Any]:
    """Return the examples of a body's schema, of all the forms that it may have."""
    if "$ref" in schema:
        schema = made["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    forms = [example for form in schema.get("anyOf", []) for example in _examples_of(made, form)]
    return [*forms, *schema.get("examples", [])]


def as_text(made: Json) -> str:
    """Return a document as it is committed."""
    return json.dumps(made, indent=2, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> int:
    """Write the document to the path that is given, else to `DOCUMENT`."""
    path = Path(arguments[0]) if arguments else DOCUMENT
    made = document()
    path.write_text(as_text(made), encoding="utf-8")
    sys.stderr.write(f"{path} describes {sum(1 for _ in operations(made))} operations.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
