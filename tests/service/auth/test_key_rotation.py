"""A key gets another secret: both work for the grace, then only the new one."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from morpheus_common.contracts.auth import UserRow
from morpheus_common.errors import ApiError
from morpheus_common.store.mongo import Database

from tests.service.auth.harness import Gateway, new_key


@pytest.fixture
async def ada(gateway: Gateway) -> UserRow:
    return await gateway.register("ada@example.com")


async def works(gateway: Gateway, key: str) -> bool:
    try:
        await gateway.check_key(key)
    except ApiError as error:
        if error.code != "invalid_api_key":
            raise
        return False
    return True


async def let_pass(database: Database, *, seconds: int) -> None:
    """Let every grace be that much nearer to its end."""
    ends = {
        "$cond": [
            {"$eq": ["$$secret.until", None]},
            None,
            {"$dateSubtract": {"startDate": "$$secret.until", "unit": "second", "amount": seconds}},
        ]
    }
    moved = {"$map": {"input": "$secrets", "as": "secret", "in": {"$mergeObjects": ["$$secret", {"until": ends}]}}}
    await database.get_collection("api_keys").update_many({}, [{"$set": {"secrets": moved}}])


async def stored(database: Database) -> dict[str, Any]:
    key = await database.get_collection("api_keys").find_one()
    assert key is not None
    return key


async def test_both_secrets_work_for_the_whole_grace_and_the_old_one_not_a_second_longer(
    gateway: Gateway, database: Database, ada: UserRow
) -> None:
    """C6"""
    old, new = new_key(), new_key()
    row = await gateway.create_key(ada.id, old, name="laptop")
    rotated = await gateway.rotate_key(ada.id, row.id, new, grace_seconds=3600)
    assert rotated.row == row.model_copy(update={"key_prefix": new[:9]}), "id, name, limits stay"
    assert 3595 < (rotated.previous_until - datetime.now(UTC)).total_seconds() <= 3600
    assert (await gateway.check_key(old)).key_id == (await gateway.check_key(new)).key_id == row.id
    await let_pass(database, seconds=3590)
    assert await works(gateway, old)
    await let_pass(database, seconds=11)
    assert not await works(gateway, old)
    assert await works(gateway, new)


async def test_without_grace_the_old_secret_ends_at_once(gateway: Gateway, database: Database, ada: UserRow) -> None:
    old, new = new_key(), new_key()
    row = await gateway.create_key(ada.id, old)
    rotated = await gateway.rotate_key(ada.id, row.id, new, grace_seconds=0)
    assert not await works(gateway, old)
    assert await works(gateway, new)
    assert abs((rotated.previous_until - datetime.now(UTC)).total_seconds()) < 60
    assert len((await stored(database))["secrets"]) == 1


@pytest.mark.parametrize(("first", "then", "old_lives"), [(3600, 60, 60), (60, 3600, 60)])
async def test_another_rotation_ends_an_earlier_grace_at_the_shorter_of_the_two(
    gateway: Gateway, database: Database, ada: UserRow, first: int, then: int, old_lives: int
) -> None:
    oldest, middle, newest = new_key(), new_key(), new_key()
    row = await gateway.create_key(ada.id, oldest)
    await gateway.rotate_key(ada.id, row.id, middle, grace_seconds=first)
    await gateway.rotate_key(ada.id, row.id, newest, grace_seconds=then)
    assert [await works(gateway, key) for key in (oldest, middle, newest)] == [True] * 3
    await let_pass(database, seconds=old_lives + 1)
    assert [await works(gateway, key) for key in (oldest, middle, newest)] == [False, then > old_lives, True]


async def test_a_revoked_key_is_refused_under_each_of_its_secrets(gateway: Gateway, ada: UserRow) -> None:
    """C5"""
    old, new = new_key(), new_key()
    row = await gateway.create_key(ada.id, old)
    await gateway.rotate_key(ada.id, row.id, new)
    await gateway.deactivate_key(ada.id, row.id)
    assert [await works(gateway, key) for key in (old, new)] == [False, False]


async def test_the_same_rotation_again_is_the_same_rotation(gateway: Gateway, database: Database, ada: UserRow) -> None:
    old, new = new_key(), new_key()
    row = await gateway.create_key(ada.id, old)
    first = await gateway.rotate_key(ada.id, row.id, new)
    assert await gateway.rotate_key(ada.id, row.id, new, grace_seconds=0) == first
    assert await works(gateway, old)
    assert len((await stored(database))["secrets"]) == 2


async def test_secrets_in_their_grace_are_bounded_and_a_shorter_grace_makes_room(
    gateway: Gateway, database: Database, ada: UserRow
) -> None:
    row = await gateway.create_key(ada.id, new_key())
    for _ in range(4):
        await gateway.rotate_key(ada.id, row.id, new_key())
    with pytest.raises(ApiError, match="key_rotation_limit"):
        await gateway.rotate_key(ada.id, row.id, new_key())
    assert len((await stored(database))["secrets"]) == 5
    newest = new_key()
    await gateway.rotate_key(ada.id, row.id, newest, grace_seconds=0)
    assert len((await stored(database))["secrets"]) == 1
    assert await works(gateway, newest)


async def test_rotations_at_once_come_one_after_the_other(gateway: Gateway, database: Database, ada: UserRow) -> None:
    row = await gateway.create_key(ada.id, new_key())
    keys = [new_key() for _ in range(4)]
    await asyncio.gather(*(gateway.rotate_key(ada.id, row.id, key) for key in keys))
    assert [await works(gateway, key) for key in keys] == [True] * 4
    key = await stored(database)
    assert [secret["until"] is None for secret in key["secrets"]] == [False] * 4 + [True]
    assert key["version"] == 5
