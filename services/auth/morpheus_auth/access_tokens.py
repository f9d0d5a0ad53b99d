"""Access tokens: short-lived JSON Web Tokens (RFC 9068) that the gateway checks by the public key alone."""

from dataclasses import dataclass
from datetime import datetime

import jwt
from morpheus_common.ids import uuid7

from morpheus_auth.signing import ALGORITHM, SigningKeys


@dataclass(frozen=True, slots=True)
class AccessTokens:
    """Makes access tokens. `lifetime` in seconds."""

    keys: SigningKeys
    issuer: str
    audience: str
    lifetime: int

    def make(self, *, user_id: str, login_id: str, authenticated_at: datetime, now: datetime) -> str:
        """Return a token for the user of a login, valid from `now` on. Raises `ApiError` (service_unavailable)."""
        kid, key = self.keys.current
        issued_at = int(now.timestamp())
        claims = {
            "iss": self.issuer,
            "aud": self.audience,
            "sub": user_id,
            "sid": login_id,
            "iat": issued_at,
            "nbf": issued_at,
            "exp": issued_at + self.lifetime,
            "jti": uuid7(),
            "auth_time": int(authenticated_at.timestamp()),
        }
        headers = {"typ": "at+jwt", "kid": kid}
        return jwt.encode(claims, key, algorithm=ALGORITHM, headers=headers)
