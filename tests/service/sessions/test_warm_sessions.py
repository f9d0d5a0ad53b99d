"""A prompt on a warm session waits for no database operation."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from pymongo import AsyncMongoClient, monitoring

from tests.service.sessions.house import House, tap, until

PROMPTS = 200
AT_ONCE = 10
"""Keys whose prompts run side by side."""

A_BEAT = 2
"""Commands of one kind that one beat may cause; a beat may fall at either end of what is measured."""

BUSY_MARKS = ("update", "sessions", "busy marks")
PER_SECOND = {
    BUSY_MARKS: 1 / 0.05,
    ("find", "sessions", "owner refresh"): 1 / 5,
    ("find", "sessions", "owned and not current"): 1 / 5,
    ("find", "sessions", None): 1 / 15,
    ("aggregate", "sessions", None): 1 / 5,
    ("find", "wallets", None): 1 / 15,
    ("update", "wallets", None): 1 / 15 + 1 / 3,
    ("delete", "findings", None): 1 / 15,
    ("update", "workers", None): 1 / 5,
    ("findAndModify", "leases", None): 2 * 3 / 15,
    ("find", "outbox", None): 1 / 0.25 + 1,
    ("aggregate", "outbox", None): 1 / 5,
    ("find", "operations", None): 2 / 0.25,
    ("aggregate", "operations", None): 1 / 0.25,
    ("ping", None, None): 1,
    # what was used: one transaction a second, and the publishing of its event
    ("findAndModify", "usage_series", None): 1,
    ("find", "user_guards", None): 1,
    ("insert", "usage", None): 1,
    ("insert", "outbox", None): 1,
    ("commitTransaction", None, None): 1,
    ("update", "outbox", None): 1,
    ("update", "usage_series", None): 0,
    # a reading of the gauges
    ("aggregate", "sessions", "gauges"): 4 / 15,
    ("aggregate", "operations", "gauges"): 1 / 15,
    ("aggregate", "findings", "gauges"): 1 / 15,
    ("aggregate", "outbox", "gauges"): 1 / 15,
    ("aggregate", "wallets", "gauges"): 1 / 15,
    ("listIndexes", "sessions", "gauges"): 2 / 15,
    ("listIndexes", "operations", "gauges"): 1 / 15,
    ("listIndexes", "outbox", "gauges"): 1 / 15,
    ("hello", None, None): 2 / 15,
}
"""Everything a worker may ask of its database while warm sessions are prompted (command, collection, comment): beats of
its own, so many a second at most, whether there is one prompt or a thousand.
"""


class Commands(monitoring.CommandListener):
    """What a worker's client sends to the database. A bulk write is one command."""

    def __init__(self) -> None:
        self.seen: Counter[tuple[str, str | None, str | None]] = Counter()

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        collection = event.command[event.command_name]
        of = collection if isinstance(collection, str) else None
        self.seen[event.command_name, of, event.command.get("comment")] += 1

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None: ...

    def failed(self, event: monitoring.CommandFailedEvent) -> None: ...


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    listener = Commands()

    def observed(
        *arguments: Any, event_listeners: Sequence[monitoring.CommandListener], **named: Any
    ) -> AsyncMongoClient[Any]:
        return AsyncMongoClient(*arguments, event_listeners=[*event_listeners, listener], **named)

    monkeypatch.setattr("morpheus_common.store.mongo.AsyncMongoClient", observed)
    return listener


async def test_two_hundred_prompts_on_warm_sessions_cause_only_commands_whose_number_time_bounds(
    house: House, commands: Commands
) -> None:
    async with house.worker():
        await warm_up(house)
        commands.seen.clear()
        started = time.monotonic()
        await prompt_many(house)
        seconds = time.monotonic() - started
        seen = commands.seen.copy()

    unexpected = {what: count for what, count in seen.items() if what not in PER_SECOND}
    assert unexpected == {}
    too_often = {what: count for what, count in seen.items() if count > PER_SECOND[what] * seconds + 2 * A_BEAT}
    assert too_often == {}, f"in {seconds:.1f} s"
    assert 0 < seen[BUSY_MARKS] < 2 * PROMPTS
    assert await house.database["usage"].count_documents({}) == PROMPTS + AT_ONCE


async def test_two_hundred_prompts_on_warm_sessions_are_answered_while_the_database_says_nothing(house: House) -> None:
    """F33: an answer holds no connection of the database."""
    async with tap(house.mongo_url) as database:
        async with house.worker(mongo_url=f"mongodb://{database.address}/?directConnection=true"):
            await warm_up(house)
            database.fall_silent()
            await prompt_many(house)
            database.speak_again()


async def warm_up(house: House) -> None:
    await asyncio.gather(*(house.gateway.chat(key=f"k{number}") for number in range(AT_ONCE)))
    await until(lambda: is_quiet(house))


async def is_quiet(house: House) -> bool:
    unpublished = await house.database["outbox"].count_documents({"published_at": None})
    return not unpublished and not await house.sessions(last_used_at=None)


async def prompt_many(house: House) -> None:
    async def prompt(key: int) -> None:
        for number in range(PROMPTS // AT_ONCE):
            answer = await house.gateway.chat(f"{key}/{number}", key=f"k{key}", stream=number % 2 == 0)
            answer.assert_whole()
            assert f"You asked: {key}/{number}." in answer.text

    await asyncio.gather(*(prompt(key) for key in range(AT_ONCE)))
