"""Who may register, and with which password."""

import asyncio

import pytest
from morpheus_auth.settings import AuthSettings, Registration
from morpheus_auth.worker import serve
from morpheus_common.errors import ApiError
from morpheus_common.store.mongo import Database

from tests.service.auth.harness import Gateway, Operator, age, dump, sha256


@pytest.fixture
def settings(settings: AuthSettings) -> AuthSettings:
    """A gateway for invited users."""
    return settings.model_copy(update={"registration": Registration.INVITE})


async def refused(gateway: Gateway, email: str, code: str | None = None, password: str | None = None) -> str:
    with pytest.raises(ApiError) as error:
        await gateway.register(email, *([password] if password else []), invite_code=code)
    return error.value.code


async def test_a_closed_gateway_makes_no_account_with_or_without_a_code(
    settings: AuthSettings, idle_gateway: Gateway, operator: Operator, database: Database
) -> None:
    async with serve(settings.model_copy(update={"registration": Registration.CLOSED})):
        code = await operator.invite()
        assert await refused(idle_gateway, "ada@example.com") == "registration_closed"
        assert await refused(idle_gateway, "ada@example.com", code) == "registration_closed"
    assert await database.get_collection("users").count_documents({}) == 0


async def test_an_open_gateway_asks_for_no_code_and_uses_none_up(
    settings: AuthSettings, idle_gateway: Gateway, operator: Operator, database: Database
) -> None:
    async with serve(settings.model_copy(update={"registration": Registration.OPEN})):
        await idle_gateway.register("ada@example.com", invite_code=await operator.invite())
        await idle_gateway.register("eve@example.com")
    assert await database.get_collection("invites").count_documents({}) == 1


async def test_without_a_code_or_with_a_wrong_one_nobody_registers(gateway: Gateway, operator: Operator) -> None:
    code = await operator.invite()
    assert await refused(gateway, "ada@example.com") == "invite_required"
    assert await refused(gateway, "ada@example.com", "invite-of-nobody") == "invite_required"
    await gateway.register("ada@example.com", invite_code=code)


async def test_a_code_makes_one_account(gateway: Gateway, operator: Operator) -> None:
    code = await operator.invite()
    await gateway.register("ada@example.com", invite_code=code)
    assert await refused(gateway, "eve@example.com", code) == "invite_required"


async def test_of_ten_who_use_one_code_at_once_one_registers(
    gateway: Gateway, operator: Operator, database: Database
) -> None:
    code = await operator.invite()
    answers = await asyncio.gather(
        *(gateway.register(f"user-{n}@example.com", invite_code=code) for n in range(10)), return_exceptions=True
    )
    refusals = [answer.code for answer in answers if isinstance(answer, ApiError)]
    assert refusals == ["invite_required"] * 9
    assert await database.get_collection("users").count_documents({}) == 1


async def test_a_registration_that_fails_leaves_the_code_unused(gateway: Gateway, operator: Operator) -> None:
    await gateway.register("ada@example.com", invite_code=await operator.invite())
    code = await operator.invite()
    assert await refused(gateway, "ada@example.com", code) == "email_taken"
    assert await refused(gateway, "eve@example.com", code, "short") == "validation_error"
    await gateway.register("eve@example.com", invite_code=code)


async def test_a_code_is_good_until_it_expires(gateway: Gateway, operator: Operator, database: Database) -> None:
    code, endless = await operator.invite(days=2), await operator.invite()
    await age(database, "invites", "expires_at", seconds=2 * 86_400 - 60)
    await gateway.register("ada@example.com", invite_code=code)
    late = await operator.invite(days=2)
    await age(database, "invites", "expires_at", seconds=2 * 86_400)
    assert await refused(gateway, "eve@example.com", late) == "invite_required"
    await gateway.register("eve@example.com", invite_code=endless)


async def test_a_thief_of_the_database_finds_no_code(gateway: Gateway, operator: Operator, database: Database) -> None:
    """C2"""
    code = await operator.invite()
    stored = await dump(database)
    assert code.encode() not in stored
    assert sha256(code).encode() not in stored
    await gateway.register("ada@example.com", invite_code=code)


async def test_a_password_that_everybody_has_is_refused_in_any_case_of_its_letters(
    gateway: Gateway, operator: Operator
) -> None:
    code = await operator.invite()
    for common in ("password", "12345678", "PassWord1", "QWERTYUIOP"):
        with pytest.raises(ApiError) as error:
            await gateway.register("ada@example.com", common, invite_code=code)
        assert (error.value.code, error.value.param) == ("password_too_common", "password")
