"""Signs of life, and who is fenced by whom."""

import asyncio
import time

import pytest
from morpheus_common.store.leases import Holder
from morpheus_common.store.mongo import Database
from morpheus_common.store.workers import (
    ADMIT_SECONDS,
    BEAT_SECONDS,
    DEAD_SECONDS,
    RETRY_SECONDS,
    Heartbeat,
    boot,
    is_alive,
)


async def aged(database: Database, worker: str, seconds: float) -> None:
    back = {"$dateSubtract": {"startDate": "$$NOW", "unit": "millisecond", "amount": int(seconds * 1000)}}
    await database["workers"].update_one({"_id": worker}, [{"$set": {"beat_at": back}}])


async def test_every_start_of_a_worker_has_a_number_of_its_own(database: Database) -> None:
    assert [await boot(database, "w1"), await boot(database, "w2"), await boot(database, "w1")] == [
        Holder("w1", 1),
        Holder("w2", 1),
        Holder("w1", 2),
    ]


async def test_a_worker_is_alive_until_it_was_silent_for_too_long(database: Database) -> None:
    holder = await boot(database, "w1")
    assert await is_alive(database, holder)

    await aged(database, "w1", DEAD_SECONDS - 5)
    assert await is_alive(database, holder)

    await aged(database, "w1", DEAD_SECONDS + 1)
    assert not await is_alive(database, holder)

    await Heartbeat(database, holder).beat()
    assert await is_alive(database, holder)


async def test_a_worker_that_was_never_heard_of_is_not_alive(database: Database) -> None:
    assert not await is_alive(database, Holder("nobody", 1))


async def test_a_worker_started_anew_is_another_one(database: Database) -> None:
    before = await boot(database, "w1")
    after = await boot(database, "w1")

    assert not await is_alive(database, before)
    assert await is_alive(database, after)


async def test_a_newer_process_of_the_same_name_fences_the_older_for_good(database: Database) -> None:
    older = Heartbeat(database, await boot(database, "w1"))
    newer = Heartbeat(database, await boot(database, "w1"))
    assert older.admits

    await older.beat()
    await newer.beat()
    assert (older.fenced, older.admits) == (True, False)
    assert (newer.fenced, newer.admits) == (False, True)


async def test_a_worker_that_could_not_renew_takes_no_new_work_before_others_take_it_for_dead(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ADMIT_SECONDS < DEAD_SECONDS
    heart = Heartbeat(database, await boot(database, "w1"))
    now = time.monotonic()

    monkeypatch.setattr("morpheus_common.store.workers.time.monotonic", lambda: now + ADMIT_SECONDS + 0.5)
    assert not heart.admits
    await heart.beat()
    assert heart.admits


async def test_a_worker_that_lost_the_database_is_heard_of_as_soon_as_it_is_back(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C46: after an election everybody waits for it; the usual pause would come on top."""
    heart = Heartbeat(database, await boot(database, "w1"))
    answers = iter([False, False, True])
    pauses: list[float] = []

    async def beat() -> bool:
        return next(answers)

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) > 3:
            raise asyncio.CancelledError

    monkeypatch.setattr(heart, "beat", beat)
    monkeypatch.setattr("morpheus_common.store.workers.asyncio.sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await heart.run()
    assert pauses == [BEAT_SECONDS, RETRY_SECONDS, RETRY_SECONDS, BEAT_SECONDS]
