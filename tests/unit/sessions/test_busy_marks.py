"""What of a prompt's begin and end is written, without a database."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from morpheus_common.store.leases import Holder
from morpheus_common.store.mongo import Database
from morpheus_common.store.workers import Heartbeat
from morpheus_sessions.documents import SessionDocument
from morpheus_sessions.ownership import USED_SECONDS, OwnedSession, Ownership
from pymongo import UpdateOne
from pymongo.errors import AutoReconnect

from tests.unit.sessions.samples import owned_session


class Collection:
    """Keeps what is written of the sessions, or fails."""

    def __init__(self) -> None:
        self.written: list[dict[str, Any]] = []
        self.fails = False

    async def bulk_write(self, updates: list[UpdateOne], **_: Any) -> None:
        if self.fails:
            raise AutoReconnect
        self.written += [cast("list[dict[str, Any]]", update._doc)[0]["$set"] for update in updates]


@pytest.fixture
def collection(monkeypatch: pytest.MonkeyPatch) -> Collection:
    collection = Collection()
    monkeypatch.setattr(SessionDocument, "get_pymongo_collection", lambda: collection)
    return collection


@pytest.fixture
def ownership() -> Ownership:
    heartbeat = cast("Heartbeat", SimpleNamespace(holder=Holder("w1", 1)))
    return Ownership(cast("Database", None), heartbeat, quarantine=600.0)


@pytest.fixture
def owned() -> OwnedSession:
    return owned_session()


BUSY = {"busy": {"attempt": "a1", "since": "$$NOW"}}
FREE = {"busy": None, "last_used_at": "$$NOW"}


async def short_prompt(ownership: Ownership, owned: OwnedSession) -> None:
    ownership.mark_busy(owned, "a1")
    ownership.mark_free(owned)
    await ownership._flush_marks()


async def test_of_prompts_that_are_over_before_their_mark_is_due_only_the_use_is_written_once_a_second(
    collection: Collection, ownership: Ownership, owned: OwnedSession
) -> None:
    for _ in range(5):
        await short_prompt(ownership, owned)
    assert collection.written == [FREE]

    owned.used_written_at -= USED_SECONDS
    await short_prompt(ownership, owned)
    assert collection.written == [FREE, FREE]


async def test_a_prompt_that_runs_when_its_mark_is_due_is_written_busy_and_then_free(
    collection: Collection, ownership: Ownership, owned: OwnedSession
) -> None:
    """I8: who takes over from a dead worker must know what may still run."""
    await short_prompt(ownership, owned)
    collection.written.clear()
    ownership.mark_busy(owned, "a1")
    await ownership._flush_marks()
    ownership.mark_free(owned)
    await ownership._flush_marks()
    assert collection.written == [BUSY, FREE]


async def test_a_busy_mark_of_which_nobody_knows_whether_it_was_written_is_taken_back(
    collection: Collection, ownership: Ownership, owned: OwnedSession
) -> None:
    await short_prompt(ownership, owned)
    collection.written.clear()
    ownership.mark_busy(owned, "a1")
    collection.fails = True
    with pytest.raises(AutoReconnect):
        await ownership._flush_marks()
    ownership.mark_free(owned)
    with pytest.raises(AutoReconnect):
        await ownership._flush_marks()
    collection.fails = False
    await ownership._flush_marks()
    assert collection.written == [FREE]


async def test_a_use_that_could_not_be_written_is_written_by_the_next(
    collection: Collection, ownership: Ownership, owned: OwnedSession
) -> None:
    ownership.mark_busy(owned, "a1")
    ownership.mark_free(owned)
    ownership.mark_busy(owned, "a2")
    ownership.mark_free(owned)
    await ownership._flush_marks()
    assert collection.written == [FREE]


async def test_a_session_that_rests_is_written_though_it_was_never_written_busy(
    collection: Collection, ownership: Ownership, owned: OwnedSession
) -> None:
    await short_prompt(ownership, owned)
    collection.written.clear()
    ownership.mark_busy(owned, "a1")
    ownership.mark_resting(owned)
    await ownership._flush_marks()
    (written,) = collection.written
    assert written["quarantined_until"]
