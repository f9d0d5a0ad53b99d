"""Prompts that follow each other at once."""

import pytest

from tests.service.relay.house import RelayHouse, events

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROMPTS = 40


async def test_prompts_one_after_the_other_on_a_kept_connection_are_all_answered_whole(house: RelayHouse) -> None:
    """F32, B6: connections to the router and of the client are kept, and the end of one answer spoils no other."""
    key = await house.warm_key()
    for number in range(PROMPTS):
        answer = await house.prompt(key, stream=number % 2 == 0)
        assert answer.status_code == 200, f"prompt {number}: {answer.text}"
        if number % 2 == 0:
            assert answer.content.endswith(b"data: [DONE]\n\n"), f"prompt {number} broke off"
            assert any(choice.get("finish_reason") for event in events(answer.content) for choice in event["choices"])
        else:
            assert answer.json()["choices"][0]["finish_reason"] == "stop"
        assert answer.headers["x-morpheus-session"] == key.session
    house.idle.append(key)
