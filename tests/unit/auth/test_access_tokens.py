from datetime import UTC, datetime, timedelta

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from morpheus_auth.access_tokens import AccessTokens
from morpheus_auth.signing import KeyTimes, SigningKeys
from morpheus_common.errors import ApiError

NOW = datetime.now(UTC).replace(microsecond=0)
LOGGED_IN = NOW - timedelta(hours=3)
OLD = KeyTimes("old", 1, NOW - timedelta(days=9), None, None)
NEW = KeyTimes("new", 2, NOW - timedelta(minutes=9), NOW - timedelta(minutes=6), NOW + timedelta(minutes=24))
PRIVATE = {kid: Ed25519PrivateKey.generate() for kid in ("new", "old")}


class Seconds:
    """A monotonic clock of the test's own."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Seconds:
    return Seconds()


@pytest.fixture
def keys(clock: Seconds) -> SigningKeys:
    keys = SigningKeys(clock)
    keys.learn([OLD, NEW], PRIVATE, database_time=NOW, asked_at=clock.now)
    return keys


@pytest.fixture
def access_tokens(keys: SigningKeys) -> AccessTokens:
    return AccessTokens(keys=keys, issuer="the issuer", audience="the audience", lifetime=1800)


def make(access_tokens: AccessTokens) -> str:
    return access_tokens.make(user_id="user", login_id="login", authenticated_at=LOGGED_IN, now=NOW)


@pytest.fixture
def token(access_tokens: AccessTokens) -> str:
    return make(access_tokens)


def test_a_token_says_who_for_whom_and_how_long(token: str) -> None:
    claims = jwt.decode(
        token, PRIVATE["new"].public_key(), algorithms=["EdDSA"], issuer="the issuer", audience="the audience"
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


def test_a_published_key_signs_from_its_moment_on_without_another_look(
    keys: SigningKeys, clock: Seconds, access_tokens: AccessTokens
) -> None:
    signs_from = NOW + timedelta(seconds=10)
    next_key = KeyTimes("next", 3, NOW, signs_from, signs_from + timedelta(hours=1))
    private = PRIVATE | {"next": Ed25519PrivateKey.generate()}
    keys.learn([NEW, next_key], private, database_time=NOW, asked_at=clock.now)
    clock.now += 9.9
    assert jwt.get_unverified_header(make(access_tokens))["kid"] == "new"
    clock.now += 0.1
    assert jwt.get_unverified_header(make(access_tokens))["kid"] == "next"


def test_a_process_that_was_cut_off_neither_signs_nor_publishes(
    keys: SigningKeys, clock: Seconds, access_tokens: AccessTokens
) -> None:
    clock.now += 20.0
    make(access_tokens)
    clock.now += 0.1
    with pytest.raises(ApiError, match="service_unavailable"):
        make(access_tokens)
    with pytest.raises(ApiError, match="service_unavailable"):
        _ = keys.jwks


def test_what_is_known_is_as_old_as_the_question_not_as_its_answer(keys: SigningKeys, clock: Seconds) -> None:
    clock.now += 15.0
    keys.learn([OLD, NEW], PRIVATE, database_time=NOW, asked_at=clock.now - 15.0)
    clock.now += 5.1
    with pytest.raises(ApiError, match="service_unavailable"):
        _ = keys.live
