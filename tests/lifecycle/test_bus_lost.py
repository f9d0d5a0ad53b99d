"""nats-server lost with all its data: nothing of money was there, revocations are found otherwise, events are told again."""

import shutil
from typing import Any

import pymongo
from morpheus_common.bus.names import User

from tests.e2e.house import House
from tests.lifecycle.operator import (
    PATIENCE_SECONDS,
    differences,
    end,
    is_closed,
    morpheus,
    open_session,
    start_dead_ones,
)

STORES = (User.AUTH, User.SESSIONS, User.AUTOMATION)


def outbox(house: House, query: dict[str, Any]) -> set[str]:
    """The ids of events of all services."""
    with pymongo.MongoClient[dict[str, Any]](house.stack.mongo_url) as client:
        return {row["_id"] for store in STORES for row in client[store]["outbox"].find(query)}


def told(house: House) -> set[str]:
    """The ids of events that the stream has."""
    return {headers["ce-id"] for headers, _ in house.events()}


def test_a_bus_that_loses_everything_costs_no_stake_and_no_revocation(house: House) -> None:
    """C45. The revocation was published, its reader was away, and the stream is gone: auth is asked about the key."""
    keeps, revoked = house.new_account(automation=True), house.new_account(automation=False)
    kept, unwanted = open_session(house, keeps), open_session(house, revoked)
    house.eventually(lambda: not outbox(house, {"published_at": None}), seconds=PATIENCE_SECONDS, what="empty outbox")
    end(house, "sessions")
    deleted = house.http.delete(f"auth/keys/{revoked.key_id}", headers=revoked.by_token)
    assert deleted.status_code == 200, deleted.text
    house.eventually(lambda: not outbox(house, {"published_at": None}), seconds=PATIENCE_SECONDS, what="empty outbox")
    before = told(house)

    end(house, "nats-server")
    shutil.rmtree(house.stack.folder.path / "nats" / "jetstream")
    start_dead_ones(house, "nats-server")

    # neither prompts nor money need a stream, and what is decided waits for one
    house.eventually(
        lambda: house.chat(keeps, "without a stream").status_code == 200, seconds=PATIENCE_SECONDS, what="answer"
    )
    other = open_session(house, house.new_account(automation=False))
    waiting = outbox(house, {"published_at": None})
    assert waiting
    house.eventually(
        lambda: b"run `morpheus apply`" in house.logs()["sessions.log"],
        seconds=PATIENCE_SECONDS,
        what="word of what is missing",
    )
    made = morpheus(house, "apply")
    assert "stream EVENTS made" in made
    assert "stream DLQ made" in made
    house.eventually(lambda: not outbox(house, {"published_at": None}), seconds=PATIENCE_SECONDS, what="empty outbox")
    house.eventually(
        lambda: is_closed(house, unwanted), seconds=PATIENCE_SECONDS, what="close of a revoked key's session"
    )
    assert not is_closed(house, kept)
    assert not is_closed(house, other)
    assert differences(house) == {}

    after = told(house)
    assert waiting <= after
    assert not before & after, "the stream was to be lost"
    assert "published again" in morpheus(house, "events", "republish")
    house.eventually(lambda: before <= told(house), seconds=PATIENCE_SECONDS, what="events told again")
    assert outbox(house, {}) == told(house)
    # the reader that was away is at work again
    last = house.new_account(automation=False)
    session = open_session(house, last)
    house.http.delete(f"auth/keys/{last.key_id}", headers=last.by_token)
    house.eventually(
        lambda: is_closed(house, session), seconds=PATIENCE_SECONDS, what="close of a revoked key's session"
    )
