"""Identifiers."""

import re
import uuid

import pytest
from morpheus_common.ids import is_chain_id, uuid7


def test_ids_are_uuids_of_version_7_and_sort_by_the_time_they_were_made() -> None:
    made = [uuid7() for _ in range(1000)]

    assert len(set(made)) == 1000
    assert sorted(made) == made
    assert all(uuid.UUID(text).version == 7 and re.fullmatch(r"[0-9a-f-]{36}", text) for text in made)


def test_an_id_on_chain_is_0x_and_64_lower_case_digits() -> None:
    assert is_chain_id("0x" + "0123456789abcdef" * 4)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0x",
        "0x" + "a" * 63,
        "0x" + "a" * 65,
        "0x" + "A" * 64,
        "0X" + "a" * 64,
        "a" * 66,
        "0x" + "g" * 64,
        "0x" + "a" * 64 + "\n",
        "\n0x" + "a" * 64,
        "0x" + "٣" * 64,
    ],
)
def test_nothing_else_is(text: str) -> None:
    assert not is_chain_id(text)
