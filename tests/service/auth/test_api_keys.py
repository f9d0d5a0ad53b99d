import asyncio
import base64
import secrets
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from morpheus_auth.settings import AuthSettings
from morpheus_auth.worker import serve
from morpheus_common.contracts.auth import Scope, UserRow
from morpheus_common.errors import ApiError
from morpheus_common.store.mongo import Database
from pydantic import SecretStr

from tests.service.auth.harness import Gateway, age, new_key, until


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


async def test_a_key_is_shown_to_its_owner_only(gateway: Gateway, ada: UserRow) -> None:
    eve = await gateway.register("eve@example.com")
    row = await gateway.create_key(ada.id, new_key())
    assert await gateway.get_key(ada.id, row.id) == row
    with pytest.raises(ApiError, match="key_not_found"):
        await gateway.get_key(eve.id, row.id)


async def test_what_is_left_out_of_a_change_stays_and_null_clears(gateway: Gateway, ada: UserRow) -> None:
    expires_at = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    key = new_key()
    row = await gateway.create_key(ada.id, key, name="laptop", scopes=[Scope.CHAT], expires_at=expires_at)
    changed = await gateway.change_key(ada.id, row.id, scopes=[Scope.USAGE], allowed_models=["0x1"])
    assert changed == row.model_copy(update={"scopes": [Scope.USAGE], "allowed_models": ["0x1"]})
    caller = await gateway.check_key(key)
    assert (caller.scopes, caller.allowed_models) == ([Scope.USAGE], ["0x1"])
    cleared = await gateway.change_key(ada.id, row.id, name=None, expires_at=None, allowed_models=None)
    assert (cleared.name, cleared.expires_at, cleared.allowed_models) == (None, None, None)
    assert cleared.scopes == [Scope.USAGE]
    assert await gateway.change_key(ada.id, row.id) == cleared


async def test_a_change_that_makes_no_sense_is_refused(gateway: Gateway, ada: UserRow) -> None:
    row = await gateway.create_key(ada.id, new_key())
    wrong: list[dict[str, Any]] = [{"scopes": []}, {"expires_at": datetime.now(UTC) - timedelta(seconds=1)}]
    for changes in wrong:
        with pytest.raises(ApiError) as error:
            await gateway.change_key(ada.id, row.id, **changes)
        assert (error.value.code, error.value.param) == ("validation_error", next(iter(changes)))


async def test_no_change_brings_a_key_back_to_life(gateway: Gateway, database: Database, ada: UserRow) -> None:
    """F40"""
    revoked, expired = new_key(), new_key()
    first = await gateway.create_key(ada.id, revoked)
    second = await gateway.create_key(ada.id, expired, expires_at=datetime.now(UTC) + timedelta(hours=1))
    await gateway.deactivate_key(ada.id, first.id)
    await age(database, "api_keys", "expires_at", seconds=3601)
    for key_id in (first.id, second.id):
        with pytest.raises(ApiError, match="key_inactive"):
            await gateway.change_key(ada.id, key_id, expires_at=None, name="alive")
        with pytest.raises(ApiError, match="key_inactive"):
            await gateway.rotate_key(ada.id, key_id, new_key())
    assert [await refused(gateway, key) for key in (revoked, expired)] == ["invalid_api_key"] * 2


async def test_changes_are_told_in_order(gateway: Gateway, database: Database, ada: UserRow) -> None:
    """Each of them once, with ids only."""
    row = await gateway.create_key(ada.id, new_key(), name="a secret name")
    await gateway.change_key(ada.id, row.id, name="another")
    replacement = new_key()
    for _ in range(2):
        await gateway.rotate_key(ada.id, row.id, replacement)
    await gateway.deactivate_key(ada.id, row.id)
    rows = [event async for event in database.get_collection("outbox").find({"entity": row.id}).sort("version")]
    kinds = [event["subject"].split(".")[3] for event in rows]
    assert kinds == ["created", "changed", "rotated", "deactivated"]
    assert [event["version"] for event in rows] == [1, 2, 3, 4]
    assert "name" not in str(rows)


@pytest.mark.parametrize("no_id", ["no such key", "\x85é", "a" * 64, None])
async def test_what_is_no_id_of_a_key_cannot_be_changed(gateway: Gateway, ada: UserRow, no_id: str | None) -> None:
    """The user's own id is none of a key's either."""
    key_id = ada.id if no_id is None else no_id
    for refused_act in (gateway.change_key(ada.id, key_id, name="mine"), gateway.rotate_key(ada.id, key_id, new_key())):
        with pytest.raises(ApiError, match="key_not_found"):
            await refused_act


async def test_only_its_owner_can_change_a_key(gateway: Gateway, ada: UserRow) -> None:
    eve = await gateway.register("eve@example.com")
    key = new_key()
    row = await gateway.create_key(ada.id, key)
    for refused_act in (
        gateway.change_key(eve.id, row.id, name="mine"),
        gateway.rotate_key(eve.id, row.id, new_key(), grace_seconds=0),
    ):
        with pytest.raises(ApiError, match="key_not_found"):
            await refused_act
    await gateway.check_key(key)


async def test_a_use_is_recorded_a_moment_later_and_never_backwards(
    gateway: Gateway, database: Database, ada: UserRow
) -> None:
    key = new_key()
    row = await gateway.create_key(ada.id, key)
    before = datetime.now(UTC) - timedelta(seconds=1)
    await gateway.check_key(key)

    async def is_recorded() -> bool:
        used_at = (await gateway.get_key(ada.id, row.id)).last_used_at
        return used_at is not None and used_at >= before

    await until(is_recorded)
    later = datetime(2100, 1, 1, tzinfo=UTC)
    await database.get_collection("api_keys").update_one({"_id": row.id}, {"$set": {"last_used_at": later}})
    other = new_key()
    marker = await gateway.create_key(ada.id, other)
    await gateway.check_key(key)
    await gateway.check_key(other)

    async def both_were_written() -> bool:
        return (await gateway.get_key(ada.id, marker.id)).last_used_at is not None

    await until(both_were_written)
    assert (await gateway.get_key(ada.id, row.id)).last_used_at == later


async def test_a_worker_that_drains_records_what_it_has_seen(
    settings: AuthSettings, database: Database, idle_gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("morpheus_auth.deferred_writes.PAUSE_SECONDS", 3600.0)
    key = new_key()
    async with serve(settings):
        ada = await idle_gateway.register("ada@example.com")
        row = await idle_gateway.create_key(ada.id, key)
        await idle_gateway.check_key(key)
        assert (await idle_gateway.get_key(ada.id, row.id)).last_used_at is None
    stored = await database.get_collection("api_keys").find_one({"_id": row.id})
    assert stored is not None
    assert stored["last_used_at"] is not None


async def test_keys_outlive_a_change_of_the_pepper_and_move_to_the_new_one_when_used(
    settings: AuthSettings, database: Database, idle_gateway: Gateway
) -> None:
    """C2"""
    old, new = (base64.b64encode(secrets.token_bytes(32)).decode() for _ in range(2))
    first, second, unused = new_key(), new_key(), new_key()

    async def versions() -> list[int]:
        keys = database.get_collection("api_keys").find().sort("_id")
        return [secret["pepper_version"] async for key in keys for secret in key["secrets"]]

    async with serve(settings.model_copy(update={"auth_peppers": SecretStr(f"1:{old}")})):
        ada = await idle_gateway.register("ada@example.com")
        await idle_gateway.create_key(ada.id, first)
        await idle_gateway.create_key(ada.id, unused)
    async with serve(settings.model_copy(update={"auth_peppers": SecretStr(f"1:{old},2:{new}")})):
        await idle_gateway.create_key(ada.id, second)
        assert await versions() == [1, 1, 2]
        for _ in range(3):
            assert (await idle_gateway.check_key(first)).user_id == ada.id
            assert (await idle_gateway.check_key(second)).user_id == ada.id
    assert await versions() == [2, 1, 2]
    async with serve(settings.model_copy(update={"auth_peppers": SecretStr(f"2:{new}")})):
        assert (await idle_gateway.check_key(first)).user_id == ada.id
        assert await refused(idle_gateway, unused) == "invalid_api_key"


async def test_a_new_pepper_costs_no_key_while_workers_are_replaced_one_by_one(
    settings: AuthSettings, database: Database, idle_gateway: Gateway
) -> None:
    """C2"""
    old, new = (base64.b64encode(secrets.token_bytes(32)).decode() for _ in range(2))
    first, both, last = f"1:{old}", f"1:{old},2:{new}", f"2:{new}"
    keys: list[str] = []
    ada: UserRow | None = None
    for peppers, current in (
        (first, None),
        # the first rollout: whoever is replaced knows the new pepper, and writes nothing that the others do not find
        (both, 1),
        (first, None),
        # the second, where all know both
        (both, 2),
        (both, 1),
        (both, 2),
        # the third
        (last, None),
        (both, 2),
    ):
        update = {"auth_peppers": SecretStr(peppers), "auth_pepper_version": current}
        # a worker that ends has written what its checks left to be written
        async with serve(settings.model_copy(update=update)):
            ada = ada or await idle_gateway.register("ada@example.com")
            for key in keys:
                assert (await idle_gateway.check_key(key)).user_id == ada.id
            keys.append(new_key())
            await idle_gateway.create_key(ada.id, keys[-1])
    stored = await database.get_collection("api_keys").find().to_list()
    assert [secret["pepper_version"] for key in stored for secret in key["secrets"]] == [2] * 8


async def test_no_two_keys_are_known_by_the_same_secret_not_even_by_one_in_its_grace(
    gateway: Gateway, database: Database, ada: UserRow
) -> None:
    """F41"""
    eve = await gateway.register("eve@example.com")
    key = new_key()
    row = await gateway.create_key(ada.id, key)
    await gateway.rotate_key(ada.id, row.id, new_key())
    with pytest.raises(ApiError, match="internal_error"):
        await gateway.create_key(eve.id, key)
    assert (await gateway.check_key(key)).user_id == ada.id
    assert await database.get_collection("api_keys").count_documents({}) == 1
