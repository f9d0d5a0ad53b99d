import pytest
from proxy_router_sim import gojson


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        (b"", "EOF"),
        (b" \n", "EOF"),
        (b"x", "invalid character 'x' looking for beginning of value"),
        (b"{7}", "invalid character '7' looking for beginning of object key string"),
        (b'{"a" 7}', "invalid character '7' after object key"),
        (b'{"a": ,}', "invalid character ',' looking for beginning of value"),
        (b'{"a": 1 7}', "invalid character '7' after object key:value pair"),
        (b'{"a": [1 7]}', "invalid character '7' after array element"),
        (b'{"]": [{"a": "{"} 7]}', "invalid character '7' after array element"),
        (b'{"a": 1,}', "invalid character '}' looking for beginning of object key string"),
        (b"[1,]", "invalid character ']' looking for beginning of value"),
        (b'{"a', "unexpected EOF"),
        (b'{"a": 1', "unexpected EOF"),
        (b'{"a": NaN}', "invalid character 'N' looking for beginning of value"),
        (b'"\n"', "invalid character '\\n' in string literal"),
        (b'"\\x"', "invalid character 'x' in string escape code"),
    ],
)
def test_what_is_no_json_is_complained_of_in_the_words_of_go(raw: bytes, complaint: str) -> None:
    with pytest.raises(ValueError, match=r".*") as raised:
        gojson.decode(raw)
    assert str(raised.value) == complaint


def test_only_the_first_value_is_read() -> None:
    assert gojson.decode(b'\n {"a": [1, 2]} {"b"') == {"a": [1, 2]}


def test_bytes_that_are_no_text_are_replaced() -> None:
    assert gojson.decode(b'"a\xff"') == "a\ufffd"


def test_lists_without_end_are_refused() -> None:
    with pytest.raises(ValueError, match="exceeded max depth"):
        gojson.decode(b"[" * 200_000)
