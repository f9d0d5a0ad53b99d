"""Access tokens: JSON web tokens that auth signed with Ed25519, verified here without asking it.

Only auth makes them, so nothing is accepted that auth does not write: exactly its three header fields, one audience as a
string, every claim once and of its type.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

import jwt
from jwt.utils import base64url_decode
from morpheus_common.errors import ApiError
from morpheus_common.logs import get_logger

from morpheus_gateway.public_keys import PublicKeys

log = get_logger(__name__)

LEEWAY_SECONDS = 30
NOT_YET = (
    "This access token is not valid yet: the clocks of the gateway's machines differ. Its operator has to set them."
)
MAX_LENGTH = 8_192
_FORM = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+", re.ASCII)
"""Base64 decoders skip what they do not know; two readers must not see different tokens."""
_HEADERS = {"alg", "typ", "kid"}
"""No other: a token never says where its key is (`jku`, `x5u`), brings one (`jwk`, `x5c`), or asks for rules that we do not
know (`crit`, `b64`)."""
_TEXTS = frozenset({"iss", "aud", "sub", "sid", "jti"})
_TIMES = frozenset({"iat", "nbf", "exp", "auth_time"})
_END_OF_TIME = 2**53


@dataclass(frozen=True, slots=True)
class Login:
    """What a verified token says: a user, the login it came from, and when that user proved who he is (Unix seconds)."""

    user_id: str
    login_id: str
    authenticated_at: float


class TokenVerifier:
    """Verifies access tokens of one issuer for one audience."""

    def __init__(self, keys: PublicKeys, *, issuer: str, audience: str) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = audience

    def verify(self, token: str) -> Login:
        """Return what `token` says. Raises `token_expired` or `invalid_token` (401), `service_unavailable` without keys."""
        form = _FORM.fullmatch(token) if len(token) <= MAX_LENGTH else None
        if form is None:
            raise ApiError("invalid_token")
        head, claims = _read(form[1]), _read(form[2])
        key_id, kind = head.get("kid"), head.get("typ")
        if (
            head.keys() != _HEADERS
            or head["alg"] != "EdDSA"
            or not isinstance(kind, str)
            or kind.lower() != "at+jwt"
            or not isinstance(key_id, str)
            or not all(isinstance(claims.get(name), str) and claims[name] for name in _TEXTS)
            or not all(_is_time(claims.get(name)) for name in _TIMES)
        ):
            raise ApiError("invalid_token")
        key = self._keys.signing_key(key_id)
        if key is None:
            raise ApiError("invalid_token")
        try:
            jwt.decode(
                token,
                key,
                algorithms=["EdDSA"],
                issuer=self._issuer,
                audience=self._audience,
                leeway=LEEWAY_SECONDS,
            )
        except jwt.ExpiredSignatureError:
            raise ApiError("token_expired") from None
        except jwt.ImmatureSignatureError:
            # its signature is good, so auth made it, and made it just now
            log.warning("token of a later time than ours: the clocks of this process and of auth differ")
            raise ApiError("invalid_token", NOT_YET) from None
        except jwt.InvalidTokenError:
            raise ApiError("invalid_token") from None
        return Login(claims["sub"], claims["sid"], claims["auth_time"])


def _read(segment: str) -> dict[str, Any]:
    """Return the JSON object in a segment, in which every name stands once."""
    try:
        value = json.loads(
            base64url_decode(segment).decode(), object_pairs_hook=_each_name_once, parse_constant=_refuse
        )
    # a few thousand brackets are enough for the last one
    except (ValueError, RecursionError):
        raise ApiError("invalid_token") from None
    if not isinstance(value, dict):
        raise ApiError("invalid_token")
    return value


def _each_name_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name stands twice")
    return value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _is_time(value: object) -> bool:
    # a bool is an int to Python, and no time; neither is what 1e999 becomes
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _END_OF_TIME
