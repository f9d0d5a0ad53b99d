from datetime import UTC, datetime, timedelta

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from morpheus_auth.access_tokens import AccessTokens
from morpheus_auth.signing import SigningKeys

NOW = datetime.now(UTC).replace(microsecond=0)
LOGGED_IN = NOW - timedelta(hours=3)


def new_key() -> bytes:
    return Ed25519PrivateKey.generate().private_bytes_raw()


@pytest.fixture
def keys() -> SigningKeys:
    return SigningKeys({"new": new_key(), "old": new_key()})


@pytest.fixture
def token(keys: SigningKeys) -> str:
    access_tokens = AccessTokens(keys=keys, issuer="the issuer", audience="the audience", lifetime=1800)
    return access_tokens.make(user_id="user", login_id="login", authenticated_at=LOGGED_IN, now=NOW)


def test_a_token_says_who_for_whom_and_how_long(keys: SigningKeys, token: str) -> None:
    claims = jwt.decode(
        token, keys.current.public_key(), algorithms=["EdDSA"], issuer="the issuer", audience="the audience"
    )
    assert len(claims.pop("jti")) == 36
    assert claims == {
        "iss": "the issuer",
        "aud": "the audience",
        "sub": "user",
        "sid": "login",
        "iat": int(NOW.timestamp()),
        "nbf": int(NOW.timestamp()),
        "exp": int(NOW.timestamp()) + 1800,
        "auth_time": int(LOGGED_IN.timestamp()),
    }


def test_a_token_names_its_type_and_key_in_its_header(token: str) -> None:
    assert jwt.get_unverified_header(token) == {"alg": "EdDSA", "typ": "at+jwt", "kid": "new"}


def test_every_published_key_is_public_and_verifies_what_its_private_half_signed(keys: SigningKeys, token: str) -> None:
    published = jwt.PyJWKSet.from_dict(keys.jwks)
    assert [key.key_id for key in published.keys] == ["new", "old"]
    assert all("d" not in key for key in keys.jwks["keys"])
    jwt.decode(token, published["new"], algorithms=["EdDSA"], audience="the audience")
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(token, published["old"], algorithms=["EdDSA"], audience="the audience")
