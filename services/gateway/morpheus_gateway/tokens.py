"""Access tokens: JSON web tokens that auth signed with Ed25519, verified here without asking it."""

from dataclasses import dataclass

import jwt
from morpheus_common.errors import ApiError

from morpheus_gateway.public_keys import PublicKeys

LEEWAY_SECONDS = 30
MAX_LENGTH = 8_192
_FORBIDDEN_HEADERS = frozenset({"jku", "jwk", "x5u", "x5c", "crit"})
"""A token never says where its key is, nor asks for rules we do not know."""
_REQUIRED_CLAIMS = ["iss", "aud", "sub", "sid", "iat", "nbf", "exp", "jti", "auth_time"]


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

    async def verify(self, token: str) -> Login:
        """Return what `token` says. Raises `token_expired` or `invalid_token` (401)."""
        if len(token) > MAX_LENGTH:
            raise ApiError("invalid_token")
        try:
            head = jwt.get_unverified_header(token)
        except jwt.InvalidTokenError:
            raise ApiError("invalid_token") from None
        key_id = head.get("kid")
        if (
            head.get("alg") != "EdDSA"
            or str(head.get("typ", "")).lower() != "at+jwt"
            or not isinstance(key_id, str)
            or _FORBIDDEN_HEADERS & head.keys()
        ):
            raise ApiError("invalid_token")
        key = await self._keys.signing_key(key_id)
        if key is None:
            raise ApiError("invalid_token")
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=["EdDSA"],
                issuer=self._issuer,
                audience=self._audience,
                leeway=LEEWAY_SECONDS,
                options={"require": _REQUIRED_CLAIMS},
            )
        except jwt.ExpiredSignatureError:
            raise ApiError("token_expired") from None
        except jwt.InvalidTokenError:
            raise ApiError("invalid_token") from None
        login_id, authenticated_at = claims["sid"], claims["auth_time"]
        # a bool is an int to Python, and no time
        if not isinstance(login_id, str) or type(authenticated_at) not in {int, float}:
            raise ApiError("invalid_token")
        return Login(claims["sub"], login_id, authenticated_at)
