"""Embeddings (Contract 2.10)."""

import pytest

from tests.contract.target import Router

pytestmark = pytest.mark.spends


def test_embeddings_have_the_form_of_openai(router: Router, embeddings_session: str) -> None:
    """Contract 2.10: one vector for each text, in order; the provider puts in its own model."""
    body = {"input": ["a red boat", "a blue boat"], "model": "ignored"}
    response = router.post("/v1/embeddings", body, headers={"session_id": embeddings_session})
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["object"] == "list"
    assert [item["index"] for item in answer["data"]] == [0, 1]
    assert {item["object"] for item in answer["data"]} == {"embedding"}
    lengths = {len(item["embedding"]) for item in answer["data"]}
    assert len(lengths) == 1
    assert lengths.pop() > 0
    assert answer["usage"]["total_tokens"] >= answer["usage"]["prompt_tokens"] > 0
    assert answer["model"] != "ignored"


def test_one_text_has_one_vector(router: Router, embeddings_session: str) -> None:
    """Contract 2.10."""
    response = router.post("/v1/embeddings", {"input": "a red boat"}, headers={"session_id": embeddings_session})
    assert len(response.json()["data"]) == 1
