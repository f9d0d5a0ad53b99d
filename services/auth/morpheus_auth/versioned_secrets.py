"""Secrets that are replaced one after the other: each has a version, one of them is the one to use from now on."""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class VersionedSecrets:
    """Secrets of 32 bytes by their version. `chosen`: the version for everything new; the highest if it is None."""

    by_version: Mapping[int, bytes] = field(repr=False)
    chosen: int | None = None

    @classmethod
    def parse(cls, text: str, *, chosen: int | None = None) -> Self:
        """Read `1:<base64 of 32 bytes>[,2:…]`. Raises `ValueError`, which never quotes the text."""
        by_version: dict[int, bytes] = {}
        for item in text.split(","):
            version, _, encoded = item.strip().partition(":")
            if not version.isdecimal():
                raise ValueError("each secret needs the form version:base64, for example 1:3q2+7w==")
            try:
                secret = base64.b64decode(encoded, validate=True)
            except binascii.Error:
                raise ValueError(f"secret {version} is not base64") from None
            if len(secret) != SECRET_BYTES:
                raise ValueError(f"secret {version} has {len(secret)} bytes and needs {SECRET_BYTES}")
            if int(version) in by_version:
                raise ValueError(f"version {version} is given twice")
            by_version[int(version)] = secret
        return cls(by_version, chosen)

    @property
    def current_version(self) -> int:
        """The version for everything new."""
        return max(self.by_version) if self.chosen is None else self.chosen

    @property
    def current(self) -> bytes:
        """The secret for everything new."""
        return self.by_version[self.current_version]
