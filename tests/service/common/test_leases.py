"""Leases: one holder at a time, by the database's clock."""

import asyncio

import pytest
from morpheus_common.store.leases import Holder, Leases
from morpheus_common.store.mongo import Database

from tests.service.common.waiting import until

SHORT = 0.3


def leases(database: Database, worker: str, boot: int = 1, *, seconds: float = 60.0) -> Leases:
    return Leases(database, Holder(worker, boot), seconds=seconds)


async def test_of_two_processes_one_gets_the_lease(database: Database) -> None:
    one, other = leases(database, "w1"), leases(database, "w2")

    assert await one.acquire("wallet") == 1
    assert await other.acquire("wallet") is None
    assert await other.acquire("another") == 1


async def test_of_many_that_ask_at_once_exactly_one_gets_it(database: Database) -> None:
    tokens = await asyncio.gather(*(leases(database, f"w{number}").acquire("wallet") for number in range(20)))

    assert [token for token in tokens if token is not None] == [1]


async def test_its_holder_renews_it_and_keeps_its_token(database: Database) -> None:
    one = leases(database, "w1")

    assert [await one.acquire("wallet") for _ in range(3)] == [1, 1, 1]


async def test_a_lease_that_ran_out_goes_to_whoever_asks_first_with_a_higher_token(database: Database) -> None:
    one, other = leases(database, "w1", seconds=SHORT), leases(database, "w2", seconds=SHORT)
    assert await one.acquire("wallet") == 1

    async def taken() -> bool:
        return await other.acquire("wallet") == 2

    await until(taken)
    assert await one.acquire("wallet") is None


async def test_a_lease_that_is_renewed_does_not_run_out(database: Database) -> None:
    one, other = leases(database, "w1", seconds=SHORT), leases(database, "w2", seconds=SHORT)
    loop = asyncio.get_running_loop()
    until_then = loop.time() + 4 * SHORT
    while loop.time() < until_then:
        assert await one.acquire("wallet") == 1
        assert await other.acquire("wallet") is None


async def test_the_same_worker_started_anew_takes_over_at_once_and_its_former_self_never_again(
    database: Database,
) -> None:
    before, after = leases(database, "w1", 1), leases(database, "w1", 2)
    assert await before.acquire("wallet") == 1

    assert await after.acquire("wallet") == 2
    assert await before.acquire("wallet") is None
    assert await after.acquire("wallet") == 2


async def test_a_released_lease_is_free_and_its_token_still_grows(database: Database) -> None:
    one, other = leases(database, "w1"), leases(database, "w2")
    await one.acquire("wallet")
    await one.release("wallet")

    async def taken() -> bool:
        return await other.acquire("wallet") == 2

    await until(taken)


@pytest.mark.parametrize(("worker", "boot"), [("w2", 1), ("w1", 0)])
async def test_only_the_holder_releases_a_lease(database: Database, worker: str, boot: int) -> None:
    one = leases(database, "w1", 1)
    await one.acquire("wallet")

    await leases(database, worker, boot).release("wallet")

    assert await leases(database, "w3").acquire("wallet") is None
    assert await one.acquire("wallet") == 1
