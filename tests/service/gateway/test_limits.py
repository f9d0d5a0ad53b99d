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
