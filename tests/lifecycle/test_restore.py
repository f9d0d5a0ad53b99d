"""The database put back to an older state under a chain that went on: what was opened since is found, named and had back."""

import shutil
from functools import partial
from typing import Any

import pymongo

from tests.e2e.house import House
from tests.lifecycle.operator import (
    DIFFERENT,
    PATIENCE_SECONDS,
    differences,
    end,
    is_closed,
    morpheus,
    open_session,
    rows,
    start_dead_ones,
)

SERVICES = ("gateway", "sessions", "automation", "auth")


def copy_files(house: House) -> None:
    """Copy the database's files while it runs; it writes none of them meanwhile."""
    data, copy = house.stack.folder.path / "mongo" / "data", house.stack.folder.path / "copy"
    with pymongo.MongoClient[dict[str, Any]](house.mongo_url("root")) as client:
        client.admin.command("fsync", lock=True)
        try:
            shutil.copytree(data, copy)
        finally:
            client.admin.command("fsyncUnlock")


def put_back(house: House) -> None:
    """Stop all that writes, put the copied files in place, and start everything."""
    data, copy = house.stack.folder.path / "mongo" / "data", house.stack.folder.path / "copy"
    end(house, *SERVICES)
    end(house, "mongod")
    shutil.rmtree(data)
    copy.rename(data)
    start_dead_ones(house, "mongod")
    house.eventually(house.is_ready, seconds=PATIENCE_SECONDS, what="gateway that serves")


def test_a_restored_database_finds_the_stakes_that_it_has_no_record_of(house: House) -> None:
    early = house.new_account(automation=False)
    later, revoked = house.new_key(early), house.new_key(early)
    ended, kept = open_session(house, early), open_session(house, revoked)
    head = morpheus(house, "audit", "verify").split("Head")[1].strip()
    copy_files(house)

    assert house.http.post("session/closesession", headers=early.by_key).status_code == 200
    of_known_key = open_session(house, later)
    stranger = house.new_account(automation=False)
    of_unknown_key = open_session(house, stranger)
    assert house.http.delete(f"auth/keys/{revoked.key_id}", headers=early.by_token).status_code == 200
    house.eventually(lambda: is_closed(house, kept), seconds=PATIENCE_SECONDS, what="close of a revoked key's session")
    change = {"current_password": early.password, "new_password": "another-password-of-his"}
    assert house.http.post("auth/password", json=change, headers=early.by_token).status_code == 204
    morpheus(house, "audit", "verify", "--expect", head)
    noted_since = morpheus(house, "audit", "verify").split("Head")[1].strip()

    put_back(house)

    # the chain is what counts: what was closed on it is closed here, by itself
    morpheus(house, "sessions", "reconcile")
    assert differences(house, code=DIFFERENT) == {of_known_key: "lost", of_unknown_key: "lost"}
    for session, key in ((of_known_key, later.key_id), (of_unknown_key, stranger.key_id)):
        morpheus(house, "sessions", "adopt", session, "--key", key, "--user", "restored", "--yes")
    morpheus(house, "sessions", "close", of_known_key)
    # whose key nobody knows, is closed without being asked
    for session in (of_known_key, of_unknown_key):
        house.eventually(partial(is_closed, house, session), seconds=PATIENCE_SECONDS, what="close")
    assert differences(house) == {}
    assert is_closed(house, ended)

    # the next stake is told from those that the records have forgotten
    again = open_session(house, early)
    assert again not in {ended, kept, of_known_key, of_unknown_key}
    assert differences(house) == {}

    # a head that was noted since shows that the log was put back
    morpheus(house, "audit", "verify", "--expect", noted_since, code=1)
    # what was taken away since the copy is there again: the operator has to know, and the bus still does
    assert house.http.get("auth/keys/current", headers=revoked.by_key).status_code == 200
    old = {"email": early.email, "password": early.password}
    assert house.http.post("auth/login", json=old).status_code == 200
    subject = "evt.auth.key.deactivated.v1"
    told = rows(morpheus(house, "events", "list", "--subject", subject, "--json"))
    assert revoked.key_id in {row["entity"] for row in told}
