"""What the gateway answered to the examples, made fit for the documentation: nobody's, always the same, and short."""

import json
import re
from typing import Any

from morpheus_site.generated.answers import ANSWERS_FILE
from morpheus_site.generated.schemas import CHAIN_ID, TIME, UUID

LONGEST = 2
"""Items of a list that are shown."""

_STANDS_FOR = {
    "access_token": "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiIwMTlhN2MxZSJ9.c2lnbmF0dXJl",
    "refresh_token": "cmVmcmVzaC10b2tlbi1vZi1ub2JvZHk",
    "key": "sk-Ab12Cd.0123456789abcdefghijklmnopqrstuvwxyzABCDEFG012345",
    "key_prefix": "sk-Ab12Cd",
    "api_key_prefix": "sk-Ab12Cd",
    "email": "ada@example.com",
    "status_url": "/api/v1/auth/deletions/ZGVsZXRpb24tb2Ytbm9ib2R5",
    "kid": "2026-11-27",
    "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
    "address": "0x2c7536E3605D9C16a7a3D7b1898e529396a65c23",
    "latency_ms": 3,
    "created": 1795766400,
    "id of a completion": "chatcmpl-0123456789",
}
"""Values that are somebody's own, or another each time, by their fields. The public key is that of RFC 8037."""

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
_STAKE = re.compile(r"([1-9]\d{8,})\d{10}")
"""With the tag that tells one of our stakes from the next, in its last digits."""
_HEX = re.compile(r"0x[0-9a-f]{64,}")
_OF_THE_STACK = {"blockchainID", "bid_id", "model_id", "ID", "Id", "ModelAgentId"}
"""Ids on chain that every development stack has."""


def fit(value: Any, name: str = "") -> Any:
    """Return an answer as it is shown."""
    if name in _STANDS_FOR and value is not None:
        return _STANDS_FOR[name]
    if isinstance(value, dict):
        return {key: fit(part, key) for key, part in value.items()}
    if isinstance(value, list):
        return [fit(part, name) for part in value[:LONGEST]]
    if not isinstance(value, str):
        return value
    if _HEX.fullmatch(value) and name not in _OF_THE_STACK:
        return CHAIN_ID
    if value.startswith("chatcmpl-"):
        return _STANDS_FOR["id of a completion"]
    if stake := _STAKE.fullmatch(value):
        return stake[1] + "0" * 10
    return _TIME.sub(TIME, _UUID.sub(UUID, value))


def record(answers: dict[str, dict[str, Any]]) -> None:
    """Write what the pages show."""
    shown = {
        operation: {status: fit(body) for status, body in sorted(of.items())}
        for operation, of in sorted(answers.items())
    }
    ANSWERS_FILE.write_text(json.dumps(shown, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
