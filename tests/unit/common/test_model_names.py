"""Which names are the same, and which are shown to nobody."""

import pytest
from morpheus_common.model_names import is_odd, normalise, slug_of


def test_names_are_compared_in_compatibility_form_and_without_case() -> None:
    assert normalise("Straße ﬁne") == normalise("STRASSE FINE") == "strasse fine"
    assert normalise("ＬＬａＭＡ") == "llama"


@pytest.mark.parametrize("name", ["Llama 3.3 70B", "ΑΣ", "ǰ\u0345", "ﬃ", "\u0390", "İ"])
def test_what_was_normalised_stays_so(name: str) -> None:
    assert normalise(normalise(name)) == normalise(name)


def test_a_slug_is_letters_and_digits_joined_by_dashes() -> None:
    assert slug_of(" Llama 3.3 / 70B! ") == "llama-3-3-70b"
    assert slug_of("通义") == ""


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        " padded",
        "a\nb",
        "a\x7fb",
        "a\u200bb",
        "a\u00adb",
        "a\u202eb",
        "\ufeffa",
        "\u2028",
        "a\u3164",
        "a\uffa0b",
        "a\ufe0f",
        "a\U000e0100",
        "a\U000e0041",
        "a\u2800b",
        "a\ue000",
        "0xabc",
        "０xabc",
        "allmodels",
        "RatedBids",
        "x" * 129,
        "a/",
        "/a",
        "a//b",
        "../keys",
        "a/./b",
    ],
)
def test_what_shows_nothing_or_cannot_be_asked_for_is_odd(name: str) -> None:
    assert is_odd(name)


@pytest.mark.parametrize(
    "name", ["llama-3.3-70b", "meta/llama-4", "通义千问", "Ünïcode é", "x" * 128, "models", "v0x1", "a b"]
)
def test_other_names_are_not(name: str) -> None:
    assert not is_odd(name)
