"""What every file of the repository is held to: each rule takes text and returns what breaks it."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
SERVICES = ("gateway", "auth", "sessions", "automation")
FRAMEWORKS = ("fastapi", "faststream")
EDGE_FILES = {"worker.py", "app.py", "context.py", "middleware.py", "operator_rpc.py", "__main__.py"}
EDGE_FOLDERS = {"routes"}
HTTP_EDGE = Path("services/gateway/morpheus_gateway")
HTTP_EDGE_FILES = {
    HTTP_EDGE / name
    for name in ("principal.py", "errors.py", "idempotency.py", "commands.py", "openapi.py", "server.py")
}
"""Who asks, whether it was asked before, whether the asker is still there, and what a refusal looks like are questions
of HTTP: FastAPI's dependencies and error handlers.
"""
TRANSACTION_FILE = Path("libs/common/morpheus_common/store/transactions.py")

_SUPPRESSION = re.compile(r"#\s*(noqa|type:\s*ignore)\b(?::\s*[A-Z]+[0-9]+(?:,\s*[A-Z]+[0-9]+)*|\[[a-z, -]+\])?")
_REGISTRY = re.compile(
    r"https?://[^\s\"']*(?:pypi|pythonhosted|npmjs|npmmirror|yarnpkg)\.[a-z]+"
    r"|^\s*(?:--(?:extra-)?index-url|--find-links|-i)\b"
    r"|^\s*(?:registry|index-url|extra-index-url|url)\s*=\s*[\"']?https?://[^\s]*simple"
    r"|\"resolved\":\s*\"https?://",
    re.IGNORECASE | re.MULTILINE,
)
_PIN = re.compile(
    r"^(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[^\s;]+)(?P<marker>[^\n]*(?:\\\n[^\n]*)*)", re.MULTILINE
)


def imported(source: str) -> set[str]:
    """Return the top-level names of everything that is imported anywhere in `source`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.partition(".")[0])
    return names


def is_edge(path: Path) -> bool:
    """Tell whether a file of a service may know a web or bus framework."""
    return path in HTTP_EDGE_FILES or path.name in EDGE_FILES or bool(EDGE_FOLDERS & set(path.parts))


def foreign_services(service: str, source: str) -> set[str]:
    """Return which other services `source`, a file of `service`, imports."""
    return imported(source) & {f"morpheus_{other}" for other in SERVICES if other != service}


def suppressions_without_reason(source: str) -> Iterator[int]:
    """Yield the lines whose `noqa` or `type: ignore` has no word after it that says why."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            rest = token.string
            found = False
            while match := _SUPPRESSION.search(rest):
                found = True
                rest = rest[: match.start()] + rest[match.end() :]
            if found and not re.search(r"[A-Za-z]{2,}", rest):
                yield token.start[0]


def starts_transaction(source: str) -> bool:
    """Tell whether code (not a comment or a string) names `start_transaction`."""
    return any(
        isinstance(node, ast.Attribute) and node.attr == "start_transaction" for node in ast.walk(ast.parse(source))
    )


def registry_addresses(text: str) -> list[str]:
    """Return the places where `text` names a package registry."""
    return [match.group(0).strip() for match in _REGISTRY.finditer(text)]


def pins(lock: str) -> dict[tuple[str, str], bool]:
    """Return for every (name, version) of a lock whether it has a hash."""
    found: dict[tuple[str, str], bool] = {}
    for entry in re.split(r"\n(?=[A-Za-z0-9])", lock):
        if match := _PIN.match(entry):
            found[match["name"], match["version"]] = "--hash=sha256:" in entry
    return found
