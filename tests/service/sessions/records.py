"""Records of sessions as the journal writes them, for tests that plant what it never would."""

from datetime import datetime, timedelta
from typing import Any

from bson import Decimal128
from morpheus_common.ids import uuid7
from morpheus_common.store.mongo import Database

WALLET = "0x" + "b" * 40
DEPLOYMENT = 7
STAKE = 11_400_000_000_000_000_000 + DEPLOYMENT * 10**6


def session_record(now: datetime, number: int = 0, **fields: Any) -> dict[str, Any]:
    """An active session of the router r1, as `number` of those a test has."""
    return {
        "_id": uuid7(),
        "version": 2,
        "state": "active",
        "slot": "current",
        "user_id": "u1",
        "key_id": f"k{number}",
        "key_prefix": "sk-abc",
        "model_id": "0x" + "a" * 64,
        "model_name": "llama-3.3-70b",
        "duration": 3600,
        "operation_id": uuid7(),
        "wanted": True,
        "router": "r1",
        "wallet": WALLET,
        "chain": 1,
        "chain_session": f"0x{number:064x}",
        "bid_id": "0x" + "c" * 64,
        "provider": "0x" + "d" * 40,
        "stake": Decimal128(str(STAKE + number)),
        "reserved": None,
        "held": None,
        "held_until": None,
        "opened_at": now,
        "ends_at": now + timedelta(hours=1),
        "owner": {"worker": "w1", "boot": 1},
        "busy": None,
        "quarantined_until": None,
        "absences": 0,
        "created_at": now,
        "updated_at": now,
        **fields,
    }


def operation_record(session: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """The open of such a session, done."""
    return {
        "_id": session["operation_id"],
        "kind": "open",
        "state": "done",
        "session": session["_id"],
        "approval": f"approval of {session['_id']}",
        "stuck": False,
        "facts": [],
        **{name: session[name] for name in ("user_id", "key_id", "wallet", "router", "bid_id", "stake", "created_at")},
        "queued_at": session["created_at"],
        **fields,
    }


def event_records(session: dict[str, Any]) -> list[dict[str, Any]]:
    """All events of such a session, published."""
    return [
        {
            "_id": uuid7(),
            "subject": f"evt.sessions.session.{past_tense}.v1",
            "entity": session["_id"],
            "version": version,
            "at": session["created_at"],
            "payload": "{}",
            "published_at": session["created_at"],
        }
        for version, past_tense in ((1, "requested"), (2, "opened"))
    ]


async def store(database: Database, sessions: list[dict[str, Any]]) -> None:
    """Store sessions with their opens and events."""
    await database["sessions"].insert_many(sessions)
    await database["operations"].insert_many([operation_record(session) for session in sessions])
    await database["outbox"].insert_many([event for session in sessions for event in event_records(session)])
