import asyncio

import jwt
import pytest
from morpheus_common.errors import ApiError
from morpheus_common.store.mongo import Database

from tests.service.auth.harness import PASSWORD, Gateway


async def test_who_registers_can_log_in_and_is_told_what_was_recorded(gateway: Gateway) -> None:
    user = await gateway.register("Ada@Example.com", name="Ada")
    assert (user.email, user.name, user.is_active) == ("Ada@Example.com", "Ada", True)
    tokens = await gateway.login("ada@EXAMPLE.com")
    published = jwt.PyJWKSet.from_dict((await gateway.public_keys()).jwks)
    key = published[jwt.get_unverified_header(tokens.access_token)["kid"]]
    claims = jwt.decode(
        tokens.access_token, key, algorithms=["EdDSA"], issuer="morpheus-auth", audience="morpheus-gateway"
    )
    assert claims["sub"] == user.id
    assert claims["exp"] - claims["iat"] == tokens.expires_in == 1800
    assert (await gateway.check_token(user.id, claims["sid"])).user_id == user.id


async def test_an_address_is_taken_in_every_spelling(gateway: Gateway) -> None:
    await gateway.register("ada@example.com")
    with pytest.raises(ApiError, match="email_taken"):
        await gateway.register("ADA@example.com", password="another password")


async def test_of_ten_who_register_one_address_at_once_one_gets_it(gateway: Gateway, database: Database) -> None:
    answers = await asyncio.gather(*(gateway.register("ada@example.com") for _ in range(10)), return_exceptions=True)
    refused = [answer.code for answer in answers if isinstance(answer, ApiError)]
    assert refused == ["email_taken"] * 9
    assert await database.get_collection("users").count_documents({}) == 1


async def test_nothing_remains_of_a_refused_registration(gateway: Gateway, database: Database) -> None:
    await gateway.register("ada@example.com")
    with pytest.raises(ApiError, match="email_taken"):
        await gateway.register("ada@example.com")
    assert await database.get_collection("outbox").count_documents({}) == 1


async def test_a_registration_that_cannot_be_names_the_field(gateway: Gateway) -> None:
    for email, password, param in [("ada", PASSWORD, "email"), ("ada@example.com", "short", "password")]:
        with pytest.raises(ApiError) as refused:
            await gateway.register(email, password)
        assert (refused.value.code, refused.value.param) == ("validation_error", param)


async def test_every_failed_login_gets_the_same_answer(gateway: Gateway, database: Database) -> None:
    """C9."""
    await gateway.register("ada@example.com")
    disabled = await gateway.register("disabled@example.com")
    await database.get_collection("users").update_one({"_id": disabled.id}, {"$set": {"is_active": False}})
    answers = set()
    for email, password in [
        ("nobody@example.com", PASSWORD),
        ("not an address", PASSWORD),
        ("ada@example.com", "wrong password"),
        ("ada@example.com", "short"),
        ("ada@example.com", ""),
        ("disabled@example.com", PASSWORD),
    ]:
        with pytest.raises(ApiError) as refused:
            await gateway.login(email, password)
        answers.add((refused.value.code, refused.value.message, refused.value.param, refused.value.retry_after))
    assert [code for code, *_ in answers] == ["invalid_credentials"]
