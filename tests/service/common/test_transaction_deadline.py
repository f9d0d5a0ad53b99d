"""A transaction ends while its caller still listens."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from morpheus_common.request_context import Deadline, deadline
from morpheus_common.store import transactions
from morpheus_common.store.mongo import Database, MongoClient
from morpheus_common.store.transactions import run_transaction
from morpheus_common.store.unavailable import database_is_away
from morpheus_devstack.servers import TRANSACTION_SECONDS
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import PyMongoError


@pytest.fixture
async def contested(client: MongoClient, database: Database) -> AsyncIterator[Any]:
    """A collection whose one document another transaction is busy with for as long as the test runs."""
    accounts = await database.create_collection("accounts")
    await accounts.insert_one({"_id": 1, "balance": 0})
    busy, over = asyncio.Event(), asyncio.Event()

    async def hold(session: AsyncClientSession) -> None:
        await accounts.update_one({"_id": 1}, {"$inc": {"balance": 1}}, session=session)
        busy.set()
        await over.wait()

    holding = asyncio.create_task(run_transaction(client, hold))
    await busy.wait()
    yield accounts
    over.set()
    await holding


async def time_until_given_up(client: MongoClient, contested: Any) -> float:
    async def body(session: AsyncClientSession) -> None:
        await contested.update_one({"_id": 1}, {"$inc": {"balance": 1}}, session=session)

    started = time.monotonic()
    with pytest.raises(PyMongoError) as caught:
        await run_transaction(client, body)
    assert database_is_away(caught.value), "the caller is told to come again"
    return time.monotonic() - started


async def test_a_transaction_gives_up_before_its_caller_does(client: MongoClient, contested: Any) -> None:
    token = deadline.set(Deadline.after(1.5))
    try:
        assert await time_until_given_up(client, contested) < 1.5
    finally:
        deadline.reset(token)


@pytest.mark.parametrize("caller", [None, Deadline(0.0)], ids=["nobody waits", "has left"])
async def test_without_a_caller_it_goes_on_and_ends_too(
    client: MongoClient, contested: Any, caller: Deadline | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transactions, "MAX_SECONDS", 1.5)
    token = deadline.set(caller)
    try:
        assert 0.7 < await time_until_given_up(client, contested) < 3
    finally:
        deadline.reset(token)


async def test_what_a_dead_client_had_locked_is_free_again_within_seconds(client: MongoClient) -> None:
    """mongod ends a transaction by its age alone: it does not see that whoever began it was killed."""
    found = await client.admin.command("getParameter", 1, transactionLifetimeLimitSeconds=1)
    assert found["transactionLifetimeLimitSeconds"] == TRANSACTION_SECONDS
