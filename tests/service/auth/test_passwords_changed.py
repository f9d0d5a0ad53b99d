"""New passwords, and the end of logins."""

import asyncio
from collections.abc import Awaitable

import pytest
from morpheus_common.errors import ApiError
from morpheus_common.store.mongo import Database

from tests.service.auth.harness import PASSWORD, Gateway, Operator, Tokens, age, dump, new_key, sha256

ADA = "ada@example.com"
NEW = "another horse, another battery"


@pytest.fixture
async def tokens(gateway: Gateway) -> Tokens:
    await gateway.register(ADA, name="Ada")
    return await gateway.login(ADA)


async def lives(gateway: Gateway, tokens: Tokens) -> bool:
    """Tell whether a login counts, for its access token and for its refresh token alike."""
    codes = set()
    for asked in (gateway.check_token(tokens.user_id, tokens.login_id), gateway.refresh(tokens.refresh_token)):
        try:
            await asked
            codes.add("")
        except ApiError as error:
            codes.add(error.code)
    assert codes in ({""}, {"invalid_token", "invalid_refresh_token"})
    return codes == {""}


async def code_of(asked: Awaitable[object]) -> tuple[str, str | None]:
    with pytest.raises(ApiError) as error:
        await asked
    return error.value.code, error.value.param


async def test_a_changed_password_is_the_one_that_counts(gateway: Gateway, tokens: Tokens) -> None:
    await gateway.change_password(tokens, PASSWORD, NEW)
    await gateway.login(ADA, NEW)
    assert await code_of(gateway.login(ADA, PASSWORD)) == ("invalid_credentials", None)


async def test_a_change_ends_all_other_logins_and_no_api_key(gateway: Gateway, tokens: Tokens) -> None:
    others = [await gateway.login(ADA) for _ in range(3)]
    key = new_key()
    await gateway.create_key(tokens.user_id, key)
    await gateway.change_password(tokens, PASSWORD, NEW)
    assert [await lives(gateway, other) for other in others] == [False] * 3
    assert await lives(gateway, tokens)
    assert (await gateway.check_key(key)).user_id == tokens.user_id


async def test_a_login_with_the_old_password_does_not_slip_past_a_change(gateway: Gateway, tokens: Tokens) -> None:
    """What was verified before the change and recorded after it would be a login that nothing ends."""
    for number in range(8):
        old, new = (PASSWORD, NEW) if number % 2 == 0 else (NEW, PASSWORD)
        racing = [gateway.login(ADA, old) for _ in range(6)]
        *began, changed = await asyncio.gather(
            *racing, gateway.change_password(tokens, old, new), return_exceptions=True
        )
        assert changed is None
        refused = {item.code for item in began if isinstance(item, ApiError)}
        assert refused <= {"invalid_credentials"}
        for login in began:
            if isinstance(login, Tokens):
                assert not await lives(gateway, login)
        tokens = await gateway.login(ADA, new)


async def test_a_wrong_current_password_changes_nothing_and_counts_as_a_failed_login(
    gateway: Gateway, tokens: Tokens
) -> None:
    for number in range(20):
        wrong = gateway.change_password(tokens, "a wrong password", NEW, address=f"203.0.113.{number}")
        assert await code_of(wrong) == ("invalid_credentials", "current_password")
    throttled = gateway.change_password(tokens, PASSWORD, NEW, address="198.51.100.7")
    assert await code_of(throttled) == ("rate_limit_exceeded", None)
    assert await code_of(gateway.login(ADA, address="198.51.100.8")) == ("rate_limit_exceeded", None)
    # by the address of its login the owner gets through
    await gateway.change_password(tokens, PASSWORD, NEW)


@pytest.mark.parametrize(
    ("new", "code"),
    [("short", "validation_error"), ("x" * 1025, "validation_error"), ("Password1", "password_too_common")],
)
async def test_a_new_password_keeps_the_rules_of_registration(
    gateway: Gateway, operator: Operator, tokens: Tokens, new: str, code: str
) -> None:
    assert await code_of(gateway.change_password(tokens, PASSWORD, new)) == (code, "new_password")
    token = await operator.reset_token(ADA)
    assert await code_of(gateway.reset_password(token, new)) == (code, "new_password")
    await gateway.reset_password(token, NEW)


async def test_a_reset_sets_the_password_once_and_ends_all_logins(
    gateway: Gateway, operator: Operator, tokens: Tokens
) -> None:
    token = await operator.reset_token("ADA@example.com")
    await gateway.reset_password(token, NEW)
    assert not await lives(gateway, tokens)
    await gateway.login(ADA, NEW)
    assert await code_of(gateway.reset_password(token, PASSWORD)) == ("invalid_reset_token", "token")
    assert await code_of(gateway.login(ADA, PASSWORD)) == ("invalid_credentials", None)


@pytest.mark.usefixtures("tokens")
async def test_of_ten_resets_with_one_token_at_once_one_is_made(gateway: Gateway, operator: Operator) -> None:
    token = await operator.reset_token(ADA)
    answers = await asyncio.gather(
        *(gateway.reset_password(token, f"new password {n}") for n in range(10)), return_exceptions=True
    )
    assert [answer.code for answer in answers if isinstance(answer, ApiError)] == ["invalid_reset_token"] * 9
    await gateway.login(ADA, f"new password {answers.index(None)}")


@pytest.mark.usefixtures("tokens")
async def test_a_token_is_good_for_an_hour(gateway: Gateway, operator: Operator, database: Database) -> None:
    token = await operator.reset_token(ADA)
    await age(database, "password_resets", "expires_at", seconds=3_600)
    assert await code_of(gateway.reset_password(token, NEW)) == ("invalid_reset_token", "token")
    token = await operator.reset_token(ADA)
    await age(database, "password_resets", "expires_at", seconds=3_540)
    await gateway.reset_password(token, NEW)


async def test_a_new_password_makes_all_tokens_for_one_useless(
    gateway: Gateway, operator: Operator, tokens: Tokens
) -> None:
    first, second = [await operator.reset_token(ADA) for _ in range(2)]
    await gateway.reset_password(first, NEW)
    assert await code_of(gateway.reset_password(second, NEW)) == ("invalid_reset_token", "token")
    third = await operator.reset_token(ADA)
    tokens = await gateway.login(ADA, NEW)
    await gateway.change_password(tokens, NEW, PASSWORD)
    assert await code_of(gateway.reset_password(third, NEW)) == ("invalid_reset_token", "token")


async def test_a_reset_forgets_the_addresses_of_whoever_had_the_old_password(
    gateway: Gateway, operator: Operator
) -> None:
    await gateway.register(ADA)
    await gateway.login(ADA, address="192.0.2.1")
    await gateway.reset_password(await operator.reset_token(ADA), NEW)
    for number in range(20):
        await code_of(gateway.login(ADA, PASSWORD, address=f"203.0.113.{number}"))
    assert await code_of(gateway.login(ADA, NEW, address="192.0.2.1")) == ("rate_limit_exceeded", None)


async def test_no_token_is_made_for_nobody(gateway: Gateway, operator: Operator, database: Database) -> None:
    disabled = await gateway.register("disabled@example.com")
    await database.get_collection("users").update_one({"_id": disabled.id}, {"$set": {"is_active": False}})
    for email in ("nobody@example.com", "not an address", "disabled@example.com"):
        assert await code_of(operator.reset_token(email)) == ("not_found", "email")


@pytest.mark.usefixtures("tokens")
async def test_a_thief_of_the_database_finds_no_token(operator: Operator, database: Database) -> None:
    """C2"""
    token = await operator.reset_token(ADA)
    stored = await dump(database)
    assert token.encode() not in stored
    assert sha256(token).encode() not in stored


async def test_a_logout_ends_this_login_and_no_other(gateway: Gateway, tokens: Tokens) -> None:
    other = await gateway.login(ADA)
    for _ in range(2):
        await gateway.end_logins(tokens.user_id, tokens.login_id)
    assert not await lives(gateway, tokens)
    assert await lives(gateway, other)


async def test_a_logout_of_all_ends_every_login_of_this_user(gateway: Gateway, tokens: Tokens) -> None:
    other = await gateway.login(ADA)
    await gateway.register("eve@example.com")
    eve = await gateway.login("eve@example.com")
    await gateway.end_logins(tokens.user_id, None)
    assert [await lives(gateway, item) for item in (tokens, other, eve)] == [False, False, True]


async def test_nobody_ends_the_login_of_another(gateway: Gateway, tokens: Tokens) -> None:
    eve = await gateway.register("eve@example.com")
    await gateway.end_logins(eve.id, tokens.login_id)
    assert await lives(gateway, tokens)


async def test_an_account_knows_how_many_keys_it_can_use(gateway: Gateway, tokens: Tokens) -> None:
    rows = [await gateway.create_key(tokens.user_id, new_key()) for _ in range(3)]
    await gateway.deactivate_key(tokens.user_id, rows[0].id)
    account = await gateway.account(tokens.user_id)
    assert (account.email, account.name, account.active_keys) == (ADA, "Ada", 2)
    assert await code_of(gateway.account("nobody")) == ("invalid_token", None)
