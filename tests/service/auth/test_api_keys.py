import asyncio
import base64
import secrets
from datetime import UTC, datetime, timedelta

import pytest
from morpheus_auth.settings import AuthSettings
from morpheus_auth.worker import serve
from morpheus_common.contracts.auth import Scope, UserRow
from morpheus_common.errors import ApiError
from morpheus_common.store.mongo import Database
from pydantic import SecretStr

from tests.service.auth.harness import Gateway, age, new_key


async def refused(gateway: Gateway, key: str) -> str:
    with pytest.raises(ApiError) as error:
        await gateway.check_key(key)
    return error.value.code


@pytest.fixture
async def ada(gateway: Gateway) -> UserRow:
    return await gateway.register("ada@example.com")


async def test_a_new_key_says_whose_it_is_and_what_it_may(gateway: Gateway, ada: UserRow) -> None:
    key = new_key()
    row = await gateway.create_key(ada.id, key, name="laptop", scopes=[Scope.CHAT])
    assert (row.name, row.key_prefix, row.is_active) == ("laptop", key[:9], True)
    caller = await gateway.check_key(key)
    assert (caller.user_id, caller.key_id, caller.scopes) == (ada.id, row.id, [Scope.CHAT])


async def test_a_key_without_scopes_may_everything(gateway: Gateway, ada: UserRow) -> None:
    assert (await gateway.create_key(ada.id, new_key())).scopes == list(Scope)


async def test_an_unknown_key_is_refused(gateway: Gateway, ada: UserRow) -> None:
    await gateway.create_key(ada.id, new_key())
    assert await refused(gateway, new_key()) == "invalid_api_key"


async def test_a_revoked_key_is_refused_at_once_and_revoking_again_changes_nothing(
    gateway: Gateway, database: Database, ada: UserRow
) -> None:
    """C5, F40."""
    key, other = new_key(), new_key()
    row = await gateway.create_key(ada.id, key)
    await gateway.create_key(ada.id, other)
    await gateway.check_key(key)
    assert not (await gateway.deactivate_key(ada.id, row.id)).is_active
    assert await refused(gateway, key) == "invalid_api_key"
    assert not (await gateway.deactivate_key(ada.id, row.id)).is_active
    assert await database.get_collection("outbox").count_documents({"entity": row.id}) == 2
    await gateway.check_key(other)


async def test_only_its_owner_can_revoke_a_key(gateway: Gateway, ada: UserRow) -> None:
    """C11."""
    eve = await gateway.register("eve@example.com")
    key = new_key()
    row = await gateway.create_key(ada.id, key)
    for user_id, key_id in ((eve.id, row.id), (ada.id, "no such key")):
        with pytest.raises(ApiError, match="key_not_found"):
            await gateway.deactivate_key(user_id, key_id)
    await gateway.check_key(key)


async def test_an_expired_key_is_refused_and_counts_no_longer(
    gateway: Gateway, database: Database, ada: UserRow
) -> None:
    keys = [new_key() for _ in range(20)]
    expires_at = datetime.now(UTC) + timedelta(hours=1)
    for key in keys:
        await gateway.create_key(ada.id, key, expires_at=expires_at)
    await gateway.check_key(keys[0])
    await age(database, "api_keys", "expires_at", seconds=3601)
    assert await refused(gateway, keys[0]) == "invalid_api_key"
    await gateway.create_key(ada.id, new_key())


async def test_a_key_that_has_expired_already_cannot_be_made(gateway: Gateway, ada: UserRow) -> None:
    with pytest.raises(ApiError) as error:
        await gateway.create_key(ada.id, new_key(), expires_at=datetime.now(UTC) - timedelta(seconds=1))
    assert (error.value.code, error.value.param) == ("validation_error", "expires_at")


async def test_the_keys_of_a_disabled_user_are_refused(gateway: Gateway, database: Database, ada: UserRow) -> None:
    """F40."""
    key = new_key()
    await gateway.create_key(ada.id, key)
    await database.get_collection("users").update_one({"_id": ada.id}, {"$set": {"is_active": False}})
    assert await refused(gateway, key) == "invalid_api_key"
    with pytest.raises(ApiError, match="invalid_token"):
        await gateway.create_key(ada.id, new_key())


async def test_thirty_keys_at_once_make_exactly_twenty(gateway: Gateway, database: Database, ada: UserRow) -> None:
    answers = await asyncio.gather(*(gateway.create_key(ada.id, new_key()) for _ in range(30)), return_exceptions=True)
    assert [answer.code for answer in answers if isinstance(answer, ApiError)] == ["key_limit_reached"] * 10
    assert await database.get_collection("api_keys").count_documents({"is_active": True}) == 20


async def test_a_revoked_key_makes_room_for_another(gateway: Gateway, ada: UserRow) -> None:
    rows = [await gateway.create_key(ada.id, new_key()) for _ in range(20)]
    with pytest.raises(ApiError, match="key_limit_reached"):
        await gateway.create_key(ada.id, new_key())
    await gateway.deactivate_key(ada.id, rows[3].id)
    await gateway.create_key(ada.id, new_key())


async def test_recording_a_key_again_gives_the_same_record_even_at_the_limit(gateway: Gateway, ada: UserRow) -> None:
    keys = [new_key() for _ in range(20)]
    rows = [await gateway.create_key(ada.id, key) for key in keys]
    assert await gateway.create_key(ada.id, keys[0]) == rows[0]


async def test_a_user_sees_all_own_keys_and_no_others_newest_first(gateway: Gateway, ada: UserRow) -> None:
    eve = await gateway.register("eve@example.com")
    made = [await gateway.create_key(ada.id, new_key(), name=str(number)) for number in range(3)]
    await gateway.create_key(eve.id, new_key(), name="of eve")
    await gateway.deactivate_key(ada.id, made[1].id)
    rows = await gateway.list_keys(ada.id)
    assert [(row.name, row.is_active) for row in rows] == [("2", True), ("1", False), ("0", True)]


async def test_keys_outlive_a_change_of_the_pepper(
    settings: AuthSettings, database: Database, idle_gateway: Gateway
) -> None:
    old, new = (base64.b64encode(secrets.token_bytes(32)).decode() for _ in range(2))
    first, second = new_key(), new_key()
    async with serve(settings.model_copy(update={"auth_peppers": SecretStr(f"1:{old}")})):
        ada = await idle_gateway.register("ada@example.com")
        await idle_gateway.create_key(ada.id, first)
    async with serve(settings.model_copy(update={"auth_peppers": SecretStr(f"1:{old},2:{new}")})):
        await idle_gateway.create_key(ada.id, second)
        assert (await idle_gateway.check_key(first)).user_id == ada.id
        assert (await idle_gateway.check_key(second)).user_id == ada.id
    versions = [key["pepper_version"] async for key in database.get_collection("api_keys").find().sort("_id")]
    assert versions == [1, 2]
