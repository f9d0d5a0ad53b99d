"""The page of all settings, from the classes that read them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from morpheus_auth.settings import AuthSettings
from morpheus_automation.settings import AutomationServiceSettings
from morpheus_common.settings import CommonSettings
from morpheus_gateway.settings import GatewaySettings
from morpheus_sessions.settings import SessionsSettings
from pydantic import Secret, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from morpheus_site.generated.text import code, page, table

SERVICES: dict[str, type[CommonSettings]] = {
    "gateway": GatewaySettings,
    "auth": AuthSettings,
    "sessions": SessionsSettings,
    "automation": AutomationServiceSettings,
}

UNITS = {
    r"\bin milliseconds\b|_ms$": "milliseconds",
    r"\bin bytes\b|^json_answer_limit$": "bytes",
    r"\bin KiB\b": "KiB",
    r"\bin wei a second\b": "wei a second",
    r"\bin wei\b": "wei",
    r"_days$": "days",
    r"_seconds$|duration(_limit)?$": "seconds",
}
"""How the name or the description of a number tells its unit. Other whole numbers count things, and the rest is seconds."""

_DERIVED = {"worker_id": "the host name"}
"""Defaults that the machine decides."""

_INTRODUCTION = """\
Settings are environment variables of the process that reads them. The services read nothing else: no file but those that \
a setting names. Lists are written as JSON. A value that does not fit is refused at start, with the name of the setting and \
never with its value.

**Secret** settings belong into a secret store: they are never logged or shown. *Required* ones have no default."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of one service."""

    name: str
    default: str
    meaning: str
    unit: str
    secret: bool


def settings_of(kind: type[CommonSettings]) -> Iterator[Setting]:
    """Yield the settings of a class."""
    for name, field in kind.model_fields.items():
        meaning = field.description or ""
        yield Setting(name.upper(), _default(name, field), meaning, unit_of(name, field), _is_secret(field.annotation))


def unit_of(name: str, field: FieldInfo) -> str:
    """Return the unit of a number; of anything else nothing."""
    kinds = _types(field.annotation)
    if not kinds & {int, float}:
        return ""
    for pattern, unit in UNITS.items():
        if re.search(pattern, name) or re.search(pattern, field.description or ""):
            return unit
    return "seconds" if float in kinds else ""


def _types(annotation: Any) -> set[Any]:
    if get_origin(annotation) is Annotated:
        return _types(get_args(annotation)[0])
    if get_origin(annotation) in {Union, UnionType}:
        return {found for part in get_args(annotation) for found in _types(part)}
    return {annotation}


def _is_secret(annotation: Any) -> bool:
    return any(kind is SecretStr or get_origin(kind) is Secret for kind in _types(annotation))


def _default(name: str, field: FieldInfo) -> str:
    if name in _DERIVED:
        return _DERIVED[name]
    if field.is_required():
        return "*required*"
    value = field.get_default(call_default_factory=False)
    if value is None or value is PydanticUndefined:
        return ""
    if _is_secret(field.annotation):
        return "one for development only"
    if isinstance(value, tuple):
        return code("[" + ", ".join(f'"{item}"' for item in value) + "]")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return code(str(value).lower() if isinstance(value, bool) else str(value))


def setting_page() -> str:
    """Return the page: one row a setting, with the services that have it."""
    found: dict[Setting, list[str]] = {}
    for service, kind in SERVICES.items():
        for setting in settings_of(kind):
            found.setdefault(setting, []).append(service)
    rows = [
        (
            code(setting.name),
            "all" if len(services) == len(SERVICES) else ", ".join(services),
            setting.default,
            ("**Secret.** " if setting.secret else "") + _sentence(setting.meaning),
            setting.unit,
        )
        for setting, services in found.items()
    ]
    rows.sort(key=lambda row: (_ORDER.get(row[1], 1), row[0]))
    return page("# Settings", _INTRODUCTION, table(("Setting", "Service", "Default", "Meaning", "Unit"), rows))


_ORDER = {"all": 0, **{service: 2 + index for index, service in enumerate(SERVICES)}}
"""What all services have comes first, then what some have, then each service's own."""


def _sentence(text: str) -> str:
    """Return a description with a capital letter, but for an address, which begins as it does."""
    return text if "://" in text.partition(" ")[0] else text[:1].upper() + text[1:]
