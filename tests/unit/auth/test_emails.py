import pytest
from morpheus_auth.emails import normalise_email


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Ada@Example.com", "ada@example.COM"),
        (" ada@example.com ", "ada@example.com"),
        ("ada@example.com.", "ada@example.com"),
        ("\N{FULLWIDTH LATIN SMALL LETTER A}da@example.com", "ada@example.com"),
        ("stra\N{LATIN SMALL LETTER SHARP S}e@example.com", "STRASSE@example.com"),
        ("jose\N{COMBINING ACUTE ACCENT}@example.com", "jos\N{LATIN SMALL LETTER E WITH ACUTE}@example.com"),
        ("ada@b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.example", "ada@xn--bcher-kva.example"),
        ("ada@B\N{LATIN CAPITAL LETTER U WITH DIAERESIS}CHER.example", "ada@xn--bcher-kva.example"),
    ],
)
def test_spellings_of_one_address_are_one_account(one: str, other: str) -> None:
    assert normalise_email(one) == normalise_email(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ada@example.com", "ada@example.org"),
        ("ada@example.com", "adam@example.com"),
        ("ada+news@example.com", "ada@example.com"),
        ("a.da@example.com", "ada@example.com"),
    ],
)
def test_different_addresses_stay_different_accounts(one: str, other: str) -> None:
    assert normalise_email(one) != normalise_email(other)


@pytest.mark.parametrize(
    "email",
    [
        "",
        "ada",
        "@example.com",
        "ada@",
        "ada@example..com",
        "ada@-example.com",
        "ada@exa mple.com",
        "ada@[127.0.0.1]",
        "a da@example.com",
        "ada@home@example.com",
        "ada\N{FULLWIDTH COMMERCIAL AT}home@example.com",
        "ada\x00@example.com",
        "ada\N{ZERO WIDTH SPACE}@example.com",
        f"{'a' * 65}@example.com",
        f"ada@{'a' * 64}.com",
        f"ada@{'a.' * 127}com",
    ],
)
def test_what_is_no_address_is_refused_without_being_quoted(email: str) -> None:
    with pytest.raises(ValueError, match="e-mail address") as refused:
        normalise_email(email)
    assert "ada" not in str(refused.value)
