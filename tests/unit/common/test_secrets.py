"""What keeps secrets: sealing on the bus, masks in the logs."""

import io
import json
import logging
import sys
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from morpheus_common.errors import ApiError
from morpheus_common.logs import MASK, configure_logs, get_logger, mask_secrets
from morpheus_common.request_context import request_id
from morpheus_common.sealing import (
    CLOCK_TOLERANCE_SECONDS,
    Sealed,
    public_key_from_text,
    public_key_to_text,
    seal,
    unseal,
)

KEY = X25519PrivateKey.generate()
SECRETS = {
    "an API key": "sk-0a1b2c.ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvw",
    "a refresh token": "rt-" + "aB3_" * 10 + "xyz",
    "an access token": "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiIwMTg5In0.c2lnbmF0dXJlLW9mLWl0",
    "an NKey seed": "SUAKY" + "A2B3C4D5" * 6 + "EFGHI",
    "a password in a URL": "mongodb://morpheus:hunter2hunter2@db:27017/auth",
}
ENDS_AS = {"a password in a URL": "hunter2hunter2"}


# sealing


@settings(max_examples=20)
@given(plaintext=st.binary(max_size=200), subject=st.text(), request=st.text())
def test_only_the_reader_opens_a_sealed_text(plaintext: bytes, subject: str, request: str) -> None:
    sealed = seal(plaintext, KEY.public_key(), subject=subject, request_id=request)

    assert unseal(sealed, KEY, subject=subject, request_id=request) == plaintext
    with pytest.raises(ApiError, match="service_unavailable"):
        unseal(sealed, X25519PrivateKey.generate(), subject=subject, request_id=request)


@pytest.mark.parametrize(
    ("subject", "request_id"), [("rpc.auth.login.v1", "r2"), ("rpc.auth.register.v1", "r1"), ("", "")]
)
def test_a_sealed_text_opens_for_its_own_subject_and_request_only(subject: str, request_id: str) -> None:
    sealed = seal(b"x", KEY.public_key(), subject="rpc.auth.login.v1", request_id="r1")

    with pytest.raises(ApiError):
        unseal(sealed, KEY, subject=subject, request_id=request_id)


def test_a_sealed_text_expires_and_its_time_cannot_be_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    sealed = seal(b"x", KEY.public_key(), subject="s", request_id="r", lifetime=60)
    later = sealed.model_copy(update={"expires_at": sealed.expires_at + 10_000})
    with pytest.raises(ApiError):
        unseal(later, KEY, subject="s", request_id="r")

    monkeypatch.setattr("morpheus_common.sealing.time.time", lambda: sealed.expires_at + CLOCK_TOLERANCE_SECONDS - 1)
    assert unseal(sealed, KEY, subject="s", request_id="r") == b"x"
    monkeypatch.setattr("morpheus_common.sealing.time.time", lambda: sealed.expires_at + CLOCK_TOLERANCE_SECONDS + 1)
    with pytest.raises(ApiError):
        unseal(sealed, KEY, subject="s", request_id="r")


@pytest.mark.parametrize("ciphertext", ["", "AAAA", "not base64!", "A" * 64, "ü", "A" * 1024])
def test_garbage_is_refused_as_a_text_for_another_key_is(ciphertext: str) -> None:
    with pytest.raises(ApiError, match="service_unavailable"):
        unseal(Sealed(ciphertext=ciphertext, expires_at=2**40), KEY, subject="s", request_id="r")


def test_a_public_key_survives_the_way_as_text() -> None:
    text = public_key_to_text(KEY.public_key())

    assert public_key_from_text(text).public_bytes_raw() == KEY.public_key().public_bytes_raw()
    for wrong in ("", "AAAA", "not base64!", text + "AAAA"):
        with pytest.raises(ValueError, match=r".*"):
            public_key_from_text(wrong)


# logs


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("sentence", ["{}", "failed with {}, sorry", "{{'a': '{}'}}"])
def test_what_looks_like_a_secret_is_masked(name: str, sentence: str) -> None:
    masked = mask_secrets(sentence.format(SECRETS[name]))

    assert ENDS_AS.get(name, SECRETS[name]) not in masked
    assert MASK in masked


def test_ordinary_words_are_not_masked() -> None:
    text = "session 0xabc opened by worker sk-1 at http://router:8082/v1 in 3.5 s"
    assert mask_secrets(text) == text


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before, level = root.handlers, root.level
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    import structlog

    configured = structlog.get_config()
    configure_logs("sessions", "w1", "INFO")
    yield stream
    structlog.configure(**configured)
    root.handlers, root.level = before, level


def test_every_line_is_one_json_object_with_its_request_and_worker(log: io.StringIO) -> None:
    token = request_id.set("r1")
    get_logger("ours").info("two\nlines", key_id="k1")
    logging.getLogger("theirs").warning("words %s", "of theirs", extra={"n": 5})
    request_id.reset(token)
    get_logger("ours").info("outside")

    ours, theirs, outside = (json.loads(line) for line in log.getvalue().splitlines())
    assert (ours["event"], ours["request_id"], ours["service"], ours["worker"]) == (
        "two\nlines",
        "r1",
        "sessions",
        "w1",
    )
    assert (theirs["event"], theirs["request_id"], theirs["n"]) == ("words of theirs", "r1", 5)
    assert "request_id" not in outside


@pytest.mark.parametrize("name", SECRETS)
def test_no_line_shows_a_secret_wherever_it_stands(log: io.StringIO, name: str) -> None:
    """C39."""
    secret = SECRETS[name]
    get_logger("ours").info(f"event {secret}", value=secret, listed=[secret], nested={"deep": {"er": secret}})
    logging.getLogger("theirs").warning("words %s", secret)
    try:
        raise RuntimeError(secret)
    except RuntimeError:
        get_logger("ours").exception("failed")
        logging.getLogger("theirs").exception("failed")

    assert len(log.getvalue().splitlines()) == 4
    assert ENDS_AS.get(name, secret) not in log.getvalue()
