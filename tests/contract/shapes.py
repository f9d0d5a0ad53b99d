"""How each field is written: a number as a string or bare, an id, an address (Contract 0)."""

import re
from collections.abc import Callable
from typing import Any

Check = Callable[[Any], bool]


def text_number(value: Any) -> bool:
    """An amount that Go writes as a JSON string of digits."""
    return isinstance(value, str) and re.fullmatch(r"\d+", value) is not None


def bare_number(value: Any) -> bool:
    """An amount that Go writes as a JSON integer of any length."""
    return type(value) is int


def hash32(value: Any) -> bool:
    """32 bytes, lowercase."""
    return isinstance(value, str) and re.fullmatch(r"0x[0-9a-f]{64}", value) is not None


def address(value: Any) -> bool:
    """20 bytes, lowercase: the checksummed spelling is for texts."""
    return isinstance(value, str) and re.fullmatch(r"0x[0-9a-f]{40}", value) is not None


def hex_without_prefix(value: Any) -> bool:
    """Bytes without 0x; empty while there are none."""
    return isinstance(value, str) and re.fullmatch(r"([0-9a-f]{2})*", value) is not None


def text(value: Any) -> bool:
    return isinstance(value, str)


def flag(value: Any) -> bool:
    return isinstance(value, bool)


def texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


BID: dict[str, Check] = {
    "Id": hash32,
    "Provider": address,
    "ModelAgentId": hash32,
    "PricePerSecond": text_number,
    "Nonce": text_number,
    "CreatedAt": text_number,
    "DeletedAt": text_number,
}
MODEL: dict[str, Check] = {
    "Id": hash32,
    "IpfsCID": hash32,
    "Fee": bare_number,
    "Stake": bare_number,
    "Owner": address,
    "Name": text,
    "Tags": texts,
    "CreatedAt": bare_number,
    "IsDeleted": flag,
    "ModelType": lambda value: value in {"LLM", "EMBEDDING", "TTS", "STT", "UNKNOWN"},
}
PROVIDER: dict[str, Check] = {
    "Address": address,
    "Endpoint": text,
    "Stake": text_number,
    "CreatedAt": text_number,
    "IsDeleted": flag,
}
SESSION: dict[str, Check] = {
    "Id": hash32,
    "User": address,
    "Provider": address,
    "ModelAgentId": hash32,
    "BidID": hash32,
    "Stake": bare_number,
    "PricePerSecond": bare_number,
    "CloseoutReceipt": hex_without_prefix,
    "CloseoutType": bare_number,
    "ProviderWithdrawnAmount": bare_number,
    "OpenedAt": bare_number,
    "EndsAt": bare_number,
    "ClosedAt": bare_number,
}


def wrong_fields(value: dict[str, Any], shape: dict[str, Check]) -> dict[str, Any]:
    """The fields that are missing or written in another way, with what stands there. A newer router may have more."""
    return {
        name: value.get(name, "missing") for name, right in shape.items() if name not in value or not right(value[name])
    }
