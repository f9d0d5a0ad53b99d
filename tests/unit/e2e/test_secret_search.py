"""What looks for secrets after a run has to find one that is there."""

import base64
import secrets
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.e2e.secret_search import Planted, search

PASSWORD = Planted("Tr0ub4dor & 3/ü?")
KEY = Planted("0x" + "1f" * 31 + "a0", raw=bytes.fromhex("1f" * 31 + "a0"))


@pytest.mark.parametrize(
    "written",
    [
        PASSWORD.text.encode(),
        PASSWORD.text.encode().hex().encode(),
        PASSWORD.text.encode().hex().upper().encode(),
        base64.b64encode(PASSWORD.text.encode()),
        base64.urlsafe_b64encode(PASSWORD.text.encode()),
        quote(PASSWORD.text).encode(),
        quote(PASSWORD.text, safe="").encode(),
        b"Tr0ub4dor+%26+3%2F%C3%BC%3F",
        rb"Tr0ub4dor & 3/\u00fc?",
    ],
)
def test_a_secret_in_a_log_is_found_in_every_form(written: bytes) -> None:
    """C2, C39."""
    log = b'{"level": "info", "event": "login", "body": "' + written + b'"}\n'
    found = search({"password": PASSWORD}, {"auth.log": log, "gateway.log": b"nothing"})
    assert found
    assert all(line.startswith("password (") and line.endswith(") in auth.log") for line in found)


@pytest.mark.parametrize(
    "written", [KEY.raw, b"1f" * 31 + b"a0", b"1F" * 31 + b"A0", str(int("1f" * 31 + "a0", 16)).encode()]
)
def test_a_private_key_is_found_as_bytes_digits_and_number(written: bytes) -> None:
    """C39."""
    assert search({"private key": KEY}, {"auth.vault": b"\x00" + written + b"\x00"})


@given(st.binary(max_size=7), st.binary(max_size=7), st.text(min_size=8, max_size=40))
def test_a_secret_is_found_wherever_it_stands_in_something_encoded(before: bytes, after: bytes, secret: str) -> None:
    """C2."""
    blob = base64.b64encode(before + secret.encode() + after)
    assert search({"it": Planted(secret)}, {"place": b"<" + blob + b">"})


def test_a_secret_in_the_label_of_a_metric_is_found() -> None:
    """C49."""
    shown = f'http_server_requests_total{{http_route="/{quote(PASSWORD.text, safe="")}"}} 1.0\n'.encode()
    assert search({"password": PASSWORD}, {"metrics of gateway": shown}) == ["password (escaped) in metrics of gateway"]


@given(st.integers(0, 10**6))
def test_what_is_not_there_is_not_found(seed: int) -> None:
    noise = base64.b64encode(str(seed).encode() * 50) + str(seed).encode()
    assert search({"password": PASSWORD, "private key": KEY}, {"log": noise}) == []


def test_a_place_where_a_secret_belongs_is_left_out_and_no_other() -> None:
    token = secrets.token_urlsafe(24)
    shown = Planted(token, may_be_in=("POST /login",))
    places = {"POST /login 200": token.encode(), "POST /refresh 401": token.encode()}
    assert search({"token": shown}, places) == ["token (plain) in POST /refresh 401"]
