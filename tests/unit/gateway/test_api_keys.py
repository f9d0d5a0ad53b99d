"""The form of an API key."""

import zlib

from morpheus_gateway import api_keys


def test_a_new_key_has_the_published_form() -> None:
    key = api_keys.make()
    prefix, secret = key.split(".")
    assert len(key) == 59
    assert (prefix[:3], len(prefix), len(secret)) == ("sk-", 9, 49)
    assert (prefix[3:] + secret).isalnum()
    assert api_keys.prefix_of(key) == prefix
    assert api_keys.is_well_formed(key)


def test_the_checksum_is_crc_32_in_base62() -> None:
    unchecked = "sk-abcDEF." + "a" * 43
    value = 0
    for digit in api_keys._checksum(unchecked):
        value = value * 62 + api_keys.ALPHABET.index(digit)
    assert value == zlib.crc32(unchecked.encode())


def test_a_key_with_any_one_character_changed_is_no_key() -> None:
    """C1."""
    key = api_keys.make()
    for position in range(len(key)):
        changed = "Q" if key[position] != "Q" else "R"
        assert not api_keys.is_well_formed(key[:position] + changed + key[position + 1 :])


def test_other_lengths_and_letters_are_no_keys() -> None:
    """C1."""
    key = api_keys.make()
    for text in (
        "",
        key[:-1],
        key + "a",
        key + "\n",
        " " + key,
        key.replace(".", "-"),
        "sk-ÄÖÜ" + key[6:],
        "sk-proj-abc",
    ):
        assert not api_keys.is_well_formed(text)


def test_no_two_keys_are_alike() -> None:
    assert len({api_keys.make() for _ in range(1_000)}) == 1_000
