"""When an answer is packed, and what its forms are called."""

import gzip
import os

import pytest
from morpheus_gateway.compression import accepts_gzip, packed, packed_tag, unpacked_tag


@pytest.mark.parametrize("accepted", ["gzip", "deflate, gzip, br", "GZIP;q=0.5", "br;q=1.0, gzip; q=0.001", "gzip;x=0"])
def test_who_names_gzip_gets_it(accepted: str) -> None:
    assert accepts_gzip(accepted)


@pytest.mark.parametrize("refused", ["", "*", "identity", "gzip;q=0", "br, gzip; q=0.000", "x-gzip, gzipped"])
def test_who_does_not_name_gzip_or_refuses_it_gets_what_it_can_read(refused: str) -> None:
    assert not accepts_gzip(refused)


def test_what_is_packed_is_the_same_and_smaller_and_alike_in_every_process() -> None:
    body = b'{"id": "model"},' * 1_000
    small = packed(body)
    assert small is not None
    assert gzip.decompress(small) == body
    assert len(small) < len(body) / 10
    assert small == packed(body)
    assert small[4:8] == bytes(4), "a time of day"


def test_what_gains_nothing_is_not_packed() -> None:
    assert packed(b"x" * 1_000) is None
    assert packed(os.urandom(10_000)) is None


def test_the_forms_have_tags_of_their_own_and_one_content() -> None:
    assert packed_tag('"abc"') == '"abc-gzip"'
    assert unpacked_tag('"abc-gzip"') == unpacked_tag('"abc"') == '"abc"'
    assert unpacked_tag("*") == "*"
