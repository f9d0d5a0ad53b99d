"""What a typo is answered with, and what it costs."""

from collections.abc import Iterable

import pytest
from morpheus_gateway.near_names import LOOKED_AT, NearNames, _pairs

NAMES = ["llama-3.3-70b", "llama-3.1-8b", "mistral-31-24b", "qwen3-235b", "hermes-4-14b", "whisper-large-v3"]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("lama-3.3-70b", "llama-3.3-70b"),
        ("llama-3.3-7b", "llama-3.3-70b"),
        ("mistral", "mistral-31-24b"),
        ("qwne3-235b", "qwen3-235b"),
        ("hermes4-14b", "hermes-4-14b"),
        ("wisper-large", "whisper-large-v3"),
    ],
)
def test_the_name_that_was_meant_comes_first(typed: str, meant: str) -> None:
    """F26"""
    assert NearNames(NAMES).of(typed, most=5)[0] == meant


def test_names_that_are_not_alike_are_not_suggested() -> None:
    near = NearNames(NAMES)
    assert near.of("gpt-5", most=5) == []
    assert near.of("", most=5) == []
    assert NearNames([]).of("llama", most=5) == []


def test_the_nearest_is_found_among_ten_thousand_that_begin_alike() -> None:
    names = [f"model-{number:05d}-instruct" for number in range(10_000)]
    assert NearNames(names).of("modle-04711-instruct", most=5)[0] == "model-04711-instruct"


def test_a_typo_costs_the_same_among_any_number_of_names(monkeypatch: pytest.MonkeyPatch) -> None:
    near = NearNames([f"model-{number}" for number in range(20_000)])
    looked_at = 0
    compared: list[str] = []

    class Counting(dict[int, int]):
        def update(self, places: Iterable[int]) -> None:  # type: ignore[override]  # as Counter's
            nonlocal looked_at
            for place in places:
                looked_at += 1
                self[place] = self.get(place, 0) + 1

        def most_common(self, most: int) -> list[tuple[int, int]]:
            return sorted(self.items(), key=lambda pair: -pair[1])[:most]

    def pairs(name: str) -> set[str]:
        compared.append(name)
        return _pairs(name)

    monkeypatch.setattr("morpheus_gateway.near_names.Counter", Counting)
    monkeypatch.setattr("morpheus_gateway.near_names._pairs", pairs)
    assert len(near.of("model-" * 20, most=5)) <= 5
    assert 0 < looked_at <= LOOKED_AT
    assert 0 < len(compared) <= 50
