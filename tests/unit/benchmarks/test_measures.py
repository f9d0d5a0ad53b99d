"""The arithmetic of single measurements."""

from collections import Counter
from typing import Any

from morpheus_common.contracts.auth import CHECK_KEY
from morpheus_sessions.ownership import MARKS_COMMENT, REFRESH_COMMENT

from benchmarks.bus import subject_kind
from benchmarks.measures.database import bursts, is_write, kinds_of, waited_for
from benchmarks.ours import HIGH, raised_limits


def row(op: str, collection: str, **command: Any) -> dict[str, Any]:
    return {"op": op, "ns": f"sessions.{collection}", "command": command}


def test_operations_that_say_nobody_waits_for_them_are_not_a_prompts() -> None:
    rows = [
        row("update", "sessions", q={}, comment=MARKS_COMMENT),
        row("query", "sessions", find="sessions", comment=REFRESH_COMMENT),
        row("query", "system.profile", find="system.profile"),
        row("command", "sessions", findAndModify="sessions"),
        row("query", "sessions", find="sessions"),
    ]
    assert kinds_of(rows) == Counter({"findAndModify sessions": 1, "query sessions": 1})


def test_a_prompt_waits_for_what_comes_with_prompts_and_not_for_what_a_clock_brings() -> None:
    noted = Counter({"query operations": 21, "findAndModify sessions": 100, "query outbox": 3})
    assert waited_for(noted, 100, {"query operations": 10.0}, seconds=2.0) == {"findAndModify sessions": 1.0}
    assert waited_for(noted, 100, {}, seconds=2.0) == {"query operations": 0.21, "findAndModify sessions": 1.0}


def test_a_bulk_write_is_one_however_many_documents_it_has() -> None:
    assert bursts([]) == 0
    assert bursts([1.0, 1.001, 1.002, 1.06, 1.061, 1.2]) == 3


def test_a_find_and_modify_is_a_write_and_a_find_is_none() -> None:
    assert is_write(row("update", "api_keys", q={}))
    assert is_write(row("command", "leases", findAndModify="leases"))
    assert not is_write(row("query", "users", find="users"))


def test_subjects_are_counted_by_what_they_are_and_not_by_whose() -> None:
    assert subject_kind("_INBOX_gw.abc.1") == subject_kind("_INBOX_gw.def.2") == "_INBOX_gw"
    assert subject_kind(CHECK_KEY.subject) == "rpc.auth.check_key"
    assert subject_kind("chat.credit.worker.attempt") == "chat.credit.worker"


def test_every_limit_on_a_rate_is_raised_and_none_is_off() -> None:
    raised = raised_limits()
    assert {"OPENS_PER_MINUTE", "OPENS_PER_DAY", "PINGS_PER_MINUTE", "REFUSED_CREDENTIALS_PER_MINUTE"} <= set(raised)
    assert all(int(value) >= HIGH for value in raised.values())
