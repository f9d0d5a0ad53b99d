"""What is too large is refused with a reason, and nobody else notices."""

import pytest

from tests.service.gateway.conftest import House


async def test_a_prompt_whose_head_the_bus_would_not_take_is_refused_and_the_connection_stays(house: House) -> None:
    # each fits by itself: the answer about the key, the head of the prompt, the first piece of the body
    key = house.auth.add_key(user_id="u" * 950_000)
    lost = house.gateway.context.rpc._connection.stats["reconnects"]

    refused = await house.chat("x" * 200_000, headers={"Authorization": f"Bearer {key}"})

    assert (refused.status_code, refused.json()["error"]["code"]) == (413, "request_too_large")
    assert (await house.chat("hi")).status_code == 200
    assert house.gateway.context.rpc._connection.stats["reconnects"] == lost


@pytest.mark.parametrize("model", ["mistral-small" + "€" * 160_000, "mistral-small" + "€" * 300])
async def test_a_model_s_name_has_an_end(house: House, model: str) -> None:
    refused = await house.chat(model=model)

    assert refused.status_code == 400
    assert (refused.json()["error"]["code"], refused.json()["error"]["param"]) == ("invalid_value", "model")
    assert house.worker.prompts == []


async def test_only_prompts_may_be_large(house: House) -> None:
    large = b"[" + b"[]," * 40_000 + b"1]"
    json = {"Content-Type": "application/json"}
    for path in ("/api/v1/auth/login", "/api/v1/auth/keys", "/api/v1/session/closesession/", "/nothing"):
        refused = await house.http.post(path, content=large, headers=json)
        assert (refused.status_code, refused.json()["error"]["code"]) == (413, "request_too_large"), path
    assert (await house.http.put("/api/v1/automation/settings", content=large, headers=json)).status_code == 413
    assert (await house.http.post("/v1/chat/completions/", content=large, headers=json)).status_code == 401
    assert (await house.chat("x" * len(large))).status_code == 200
