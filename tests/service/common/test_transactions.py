"""The one way to run a transaction."""

import asyncio
from typing import Any

import pytest
from morpheus_common.store.mongo import Database, MongoClient
from morpheus_common.store.transactions import run_transaction
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import ConnectionFailure, OperationFailure


@pytest.fixture
async def accounts(database: Database) -> Any:
    await database.create_collection("accounts")
    return database["accounts"]


async def test_what_the_body_writes_is_there_when_it_has_returned(client: MongoClient, accounts: Any) -> None:
    async def body(session: AsyncClientSession) -> str:
        await accounts.insert_one({"_id": 1}, session=session)
        return "done"

    assert await run_transaction(client, body) == "done"
    assert await accounts.count_documents({}) == 1


async def test_a_body_that_raises_leaves_nothing(client: MongoClient, accounts: Any) -> None:
    async def body(session: AsyncClientSession) -> None:
        await accounts.insert_one({"_id": 1}, session=session)
        raise LookupError

    with pytest.raises(LookupError):
        await run_transaction(client, body)
    assert await accounts.count_documents({}) == 0


async def test_transactions_that_are_in_each_others_way_all_happen_exactly_once(
    client: MongoClient, accounts: Any
) -> None:
    await accounts.insert_one({"_id": 1, "balance": 0})

    async def body(session: AsyncClientSession) -> None:
        account = await accounts.find_one({"_id": 1}, session=session)
        await accounts.update_one({"_id": 1}, {"$set": {"balance": account["balance"] + 1}}, session=session)

    await asyncio.gather(*(run_transaction(client, body) for _ in range(10)))
    assert (await accounts.find_one({"_id": 1}))["balance"] == 10


def lost() -> OperationFailure:
    error = OperationFailure("the answer to the commit was lost")
    error._add_error_label("UnknownTransactionCommitResult")
    return error


async def test_a_commit_whose_answer_was_lost_counts_when_it_can_be_read_back(client: MongoClient) -> None:
    async def body(_: AsyncClientSession) -> str:
        raise lost()

    async def read_back() -> str | None:
        return "found"

    async def nothing() -> str | None:
        return None

    assert await run_transaction(client, body, read_back=read_back) == "found"
    with pytest.raises(OperationFailure):
        await run_transaction(client, body, read_back=nothing)
    with pytest.raises(OperationFailure):
        await run_transaction(client, body)


async def test_another_failure_is_never_taken_for_success(client: MongoClient) -> None:
    async def body(_: AsyncClientSession) -> str:
        raise ConnectionFailure("gone")

    async def read_back() -> str | None:
        return "found"

    with pytest.raises(ConnectionFailure):
        await run_transaction(client, body, read_back=read_back)


async def test_money_truth_is_acknowledged_by_a_majority_and_read_from_it(client: MongoClient) -> None:
    assert client.write_concern.document == {"w": "majority", "j": True}
    assert client.read_concern.level == "majority"
    assert client.options.retry_writes
