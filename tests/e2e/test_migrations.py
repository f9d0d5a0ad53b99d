"""`morpheus apply` with migrations, as an operator whose user may not write documents until the right is lent to it."""

import asyncio

import pymongo
import pytest
from morpheus_common.store.migrations import Migration
from morpheus_common.store.mongo import Database
from morpheus_devstack import apply as applying
from morpheus_devstack.apply import ApplySettings, apply
from morpheus_devstack.errors import StackError
from morpheus_devstack.mongo_setup import roles_of

from tests.e2e.house import House


def test_a_migration_needs_a_right_that_is_named_and_is_done_once_it_is_lent(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 0

    async def step(database: Database) -> bool:
        nonlocal steps
        steps += 1
        changed = await database.get_collection("migrated").update_one({"_id": 1}, {"$set": {"new": True}}, upsert=True)
        return changed.upserted_id is not None

    monkeypatch.setitem(applying.MIGRATIONS, "automation", (Migration("of-this-test", step),))
    settings = ApplySettings.read(house.stack.folder)
    with pytest.raises(StackError, match=r"`automation`.*`readWrite`"):
        asyncio.run(apply(settings))
    assert steps == 0
    with pymongo.MongoClient[dict[str, object]](house.mongo_url("root")) as root:
        lent = [*roles_of("ops"), {"role": "readWrite", "db": "automation"}]
        root.admin.command("updateUser", "ops", roles=lent)
        try:
            assert asyncio.run(apply(settings)) == ["migration automation.of-this-test done"]
            assert asyncio.run(apply(settings)) == []
        finally:
            root.admin.command("updateUser", "ops", roles=roles_of("ops"))
            root["automation"]["migrated"].drop()
    assert steps == 2
