"""Whose name it is, and what a typo gets."""

from typing import Any

import pytest
from morpheus_common.contracts.sessions import CatalogueModel, ModelType
from morpheus_common.errors import ApiError
from morpheus_gateway.catalogue import Models


def model(number: int, name: str, **fields: Any) -> CatalogueModel:
    defaults: dict[str, Any] = {
        "id": f"0x{number:064x}",
        "name": name,
        "owner": "0xowner",
        "tags": [],
        "type": ModelType.LLM,
        "created_at": 1_000 + number,
        "has_bids": True,
    }
    return CatalogueModel(**(defaults | fields))


def shown(models: Models, entry: CatalogueModel) -> str:
    name: str = models.openai_object(entry)["id"]
    return name


def unknown(models: Models, name: str) -> ApiError:
    with pytest.raises(ApiError) as caught:
        models.find(name)
    assert caught.value.code == "model_not_found"
    return caught.value


def test_a_model_is_found_by_id_name_and_slug() -> None:
    llama = model(1, "Llama 3.3 70B", slug="llama-3-3-70b")
    models = Models([llama])
    for name in (llama.id, llama.id.upper().replace("0X", "0x"), "Llama 3.3 70B", "LLAMA 3.3 70b", "llama-3-3-70b"):
        assert models.find(name) is llama


def test_names_are_compared_in_compatibility_form() -> None:
    assert Models([model(1, "Straße ﬁne")]).find("STRASSE FINE").id == model(1, "x").id


def test_a_name_comes_before_a_slug() -> None:
    spaced, dashed = model(1, "foo bar", slug="foo-bar"), model(2, "foo-bar")
    models = Models([spaced, dashed])
    assert models.find("foo-bar") is dashed
    assert models.find("foo bar") is spaced


def test_a_model_that_does_not_hold_its_name_is_shown_and_found_by_its_id() -> None:
    first, late = model(1, "mistral"), model(2, "Mistral", holds_name=False)
    models = Models([late, first])
    assert models.find("MISTRAL") is first
    assert shown(models, first) == "mistral"
    assert shown(models, late) == late.id
    assert models.find(late.id) is late
    assert shown(Models([late]), late) == late.id
    unknown(Models([late]), "mistral")


def test_a_withheld_name_means_no_model_and_no_slug_of_another() -> None:
    """F26"""
    spaced = model(1, "foo bar", slug="foo-bar")
    assert Models([spaced]).find("foo-bar") is spaced
    models = Models([spaced], withheld=["foo-bar"])
    assert models.find("Foo Bar") is spaced
    assert "foo-bar" not in str(unknown(models, "FOO-bar").message)


def test_a_name_too_long_for_any_model_is_unknown_at_once() -> None:
    assert unknown(Models([model(1, "llama")]), "x" * 10_000).details is None


def test_an_unknown_name_gets_near_ones_and_never_another_model() -> None:
    """F26"""
    models = Models([model(n, name) for n, name in enumerate(["mistral-31-24b", "mistral-small", "llama", "qwen"])])
    error = unknown(models, "mistral-smal")
    assert error.details is not None
    assert error.details["suggestions"][0] == "mistral-small"
    assert "llama" not in error.details["suggestions"]
    assert "smal" not in error.message


def test_at_most_five_names_are_suggested() -> None:
    details = unknown(Models([model(n, f"model-{n}") for n in range(9)]), "model-").details
    assert details is not None
    assert len(details["suggestions"]) == 5


def test_a_model_without_bids_is_listed_among_all_only() -> None:
    models = Models([model(1, "here"), model(2, "idle", has_bids=False)])
    assert b"idle" not in models.offered.body
    assert b"idle" in models.all.body
    assert models.offered.etag != models.all.etag
