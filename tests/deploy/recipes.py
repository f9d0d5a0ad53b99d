"""Dockerfile and docker-compose.yml as they are read: no engine is needed."""

import re
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # it has no annotations

from requirements.install import ROOT

DOCKERFILE = (ROOT / "deploy" / "docker" / "Dockerfile").read_text()
COMPOSE = ROOT / "docker-compose.yml"
_VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


def stages(text: str) -> dict[str, list[str]]:
    """The instructions of each stage of a Dockerfile, continued lines joined, those of the stages it starts from before them."""
    joined = re.sub(r"\\\n\s*", "", re.sub(r"(?m)^\s*#.*\n", "", text))
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in joined.splitlines():
        begun = re.fullmatch(r"FROM (\S+) AS (\S+)", line)
        if begun is not None:
            current = found[begun[2]] = list(found.get(begun[1], [line]))
        elif line:
            current.append(line)
    return found


def substituted(value: Any, env: dict[str, str]) -> Any:
    """What Compose makes of `${NAME:-default}` and `${NAME:?complaint}`. Raises `KeyError` for what has to be said and is not."""
    if isinstance(value, dict):
        return {name: substituted(part, env) for name, part in value.items()}
    if isinstance(value, list):
        return [substituted(part, env) for part in value]
    if not isinstance(value, str):
        return value

    def known(match: re.Match[str]) -> str:
        name, kind, rest = match.groups()
        if env.get(name):
            return env[name]
        if kind == "?":
            raise KeyError(name)
        return rest or ""

    return _VARIABLE.sub(known, value)


def env_file(name: str) -> dict[str, str]:
    """What one of the files for `.env` says."""
    lines = (ROOT / "deploy" / "docker" / name).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def compose(env: dict[str, str] | None = None) -> dict[str, Any]:
    """docker-compose.yml with its anchors and variables resolved; by default as a trial has it."""
    loaded: dict[str, Any] = substituted(
        yaml.safe_load(COMPOSE.read_text()), env_file("trial.env") if env is None else env
    )
    return loaded


def ignored(patterns: str, path: Path) -> bool:
    """Whether .dockerignore keeps a path from the builder: the last pattern that matches it or a folder above it decides."""
    out = False
    for line in patterns.splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        readmits, pattern = pattern.startswith("!"), pattern.removeprefix("!")
        expression = (
            re.escape(pattern)
            .replace(r"\*\*/", "(?:.*/)?")
            .replace(r"\*", "[^/]*")
            .replace(r"\[co\]", "[co]")
            .replace(r"\[cod\]", "[cod]")
        )
        if any(re.fullmatch(expression, str(part)) for part in (path, *path.parents) if str(part) != "."):
            out = not readmits
    return out
