import asyncio

import jwt
import pytest
from morpheus_common.errors import ApiError
from morpheus_common.store.mongo import Database

from tests.service.auth.harness import Gateway, Tokens, age


def login_of(tokens: Tokens) -> tuple[str, str]:
    claims = jwt.decode(tokens.access_token, options={"verify_signature": False})
    return claims["sub"], claims["sid"]


async def refused(gateway: Gateway, token: str) -> str:
    with pytest.raises(ApiError) as error:
        await gateway.refresh(token)
    return error.value.code


@pytest.fixture
async def tokens(gateway: Gateway) -> Tokens:
    await gateway.register("ada@example.com")
    return await gateway.login("ada@example.com")


async def test_a_refresh_gives_new_tokens_of_the_same_login(gateway: Gateway, tokens: Tokens) -> None:
    second = await gateway.refresh(tokens.refresh_token)
    third = await gateway.refresh(second.refresh_token)
    assert len({tokens.refresh_token, second.refresh_token, third.refresh_token}) == 3
    assert login_of(tokens) == login_of(second) == login_of(third)


async def test_a_login_remembers_when_its_user_proved_who_he_is(
    gateway: Gateway, database: Database, tokens: Tokens
) -> None:
    await age(database, "logins", "authenticated_at", seconds=3600)
    refreshed = await gateway.refresh(tokens.refresh_token)
    first, later = (jwt.decode(item.access_token, options={"verify_signature": False}) for item in (tokens, refreshed))
    assert later["auth_time"] == first["auth_time"] - 3600


async def test_the_same_token_again_within_the_grace_gives_the_same_answer(gateway: Gateway, tokens: Tokens) -> None:
    first = await gateway.refresh(tokens.refresh_token)
    assert await gateway.refresh(tokens.refresh_token) == first
    await gateway.refresh(first.refresh_token)


async def test_twenty_refreshes_at_once_get_one_answer(gateway: Gateway, database: Database, tokens: Tokens) -> None:
    answers = await asyncio.gather(*(gateway.refresh(tokens.refresh_token) for _ in range(20)))
    assert len(set(answers)) == 1
    assert await database.get_collection("refresh_tokens").count_documents({}) == 2


async def test_a_token_presented_again_after_the_grace_ends_its_login(
    gateway: Gateway, database: Database, tokens: Tokens
) -> None:
    """C8."""
    successor = await gateway.refresh(tokens.refresh_token)
    await age(database, "refresh_answers", "created_at", seconds=11)
    assert await refused(gateway, tokens.refresh_token) == "refresh_token_reused"
    assert await refused(gateway, successor.refresh_token) == "invalid_refresh_token"
    with pytest.raises(ApiError, match="invalid_token"):
        await gateway.check_token(*login_of(tokens))


async def test_the_end_of_one_login_leaves_the_others(gateway: Gateway, database: Database, tokens: Tokens) -> None:
    other = await gateway.login("ada@example.com")
    await gateway.refresh(tokens.refresh_token)
    await age(database, "refresh_answers", "created_at", seconds=11)
    assert await refused(gateway, tokens.refresh_token) == "refresh_token_reused"
    await gateway.refresh(other.refresh_token)
    await gateway.check_token(*login_of(other))


async def test_the_answer_of_the_grace_is_not_given_once_the_login_has_ended(
    gateway: Gateway, database: Database, tokens: Tokens
) -> None:
    await gateway.refresh(tokens.refresh_token)
    await database.get_collection("logins").update_many({}, [{"$set": {"revoked_at": "$$NOW"}}])
    assert await refused(gateway, tokens.refresh_token) == "invalid_refresh_token"


async def test_an_unused_token_expires(gateway: Gateway, database: Database, tokens: Tokens) -> None:
    await age(database, "refresh_tokens", "expires_at", seconds=7 * 86_400)
    assert await refused(gateway, tokens.refresh_token) == "invalid_refresh_token"
    await gateway.check_token(*login_of(tokens))


async def test_no_token_outlives_its_login(gateway: Gateway, database: Database, tokens: Tokens) -> None:
    await age(database, "logins", "expires_at", seconds=84 * 86_400)
    await gateway.refresh(tokens.refresh_token)
    login = await database.get_collection("logins").find_one()
    successor = await database.get_collection("refresh_tokens").find_one({"used_at": None})
    assert login is not None
    assert successor is not None
    assert successor["expires_at"] == login["expires_at"]


async def test_a_disabled_user_cannot_go_on(gateway: Gateway, database: Database, tokens: Tokens) -> None:
    await database.get_collection("users").update_many({}, {"$set": {"is_active": False}})
    assert await refused(gateway, tokens.refresh_token) == "invalid_refresh_token"
    with pytest.raises(ApiError, match="invalid_token"):
        await gateway.check_token(*login_of(tokens))


async def test_an_unknown_token_is_refused_and_does_no_harm(gateway: Gateway, tokens: Tokens) -> None:
    for unknown in ("", "rt-unknown", "not even a t\N{LATIN SMALL LETTER O WITH DIAERESIS}ken"):
        assert await refused(gateway, unknown) == "invalid_refresh_token"
    await gateway.refresh(tokens.refresh_token)


async def test_a_login_does_not_count_for_another_user(gateway: Gateway, tokens: Tokens) -> None:
    other = await gateway.register("eve@example.com")
    _, login_id = login_of(tokens)
    with pytest.raises(ApiError, match="invalid_token"):
        await gateway.check_token(other.id, login_id)
