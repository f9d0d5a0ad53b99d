"""What looks on while servers are struck: it is shown each thing that it has to find."""

import subprocess
import sys
import time
from typing import cast

import pytest

from tests.faults.server_cases import SERVER_CASES, Servers, on_stacks, selected
from tests.faults.server_events import EventReader, Told
from tests.faults.server_load import Ledger, Outcome, unclear
from tests.faults.stack import FaultStack

SKEW = 300


def reader(*lines: str) -> EventReader:
    reading = EventReader(cast("FaultStack", None))
    for line in lines:
        reading.note(line)
    return reading


def event(version: int, *, kind: str = "auth.key.created.v1", mark: str = "") -> str:
    return f"2026-11-27T10:00:00.000Z  {kind:<36} k1  #{version}  is_active=true {mark}".rstrip()


FIRST, SECOND = Told("auth", "k1", 1), Told("auth", "k1", 2)


def test_a_reader_that_saw_every_event_once_is_content() -> None:
    reading = reader(event(1), event(2), event(1, mark="[repeat: version 2 was seen already; ignored]"))
    assert reading.compare({FIRST, SECOND}).wrong == []
    assert reading.repeats == 1


@pytest.mark.parametrize(
    ("lines", "decided", "wrong"),
    [
        ([event(1)], {FIRST, SECOND}, "event lost"),
        ([event(1), event(1)], {FIRST}, "twice"),
        ([event(1), event(2)], {FIRST}, "nobody decided"),
        ([event(1), event(1, kind="sessions.key.closed.v1")], {FIRST}, "nobody decided"),
        ([event(1), event(2, mark="[gap: the last version seen was 0]")], {FIRST, SECOND}, "1 gaps"),
    ],
)
def test_a_reader_that_missed_or_doubled_an_event_says_so(lines: list[str], decided: set[Told], wrong: str) -> None:
    """C45, C46"""
    (told,) = reader(*lines).compare(decided).wrong
    assert wrong in told


def test_a_line_that_nobody_knows_is_no_event() -> None:
    with pytest.raises(ValueError, match="no test knows"):
        reader("Traceback (most recent call last):")


@pytest.mark.parametrize(
    ("status", "code", "retry_after", "clear"),
    [
        (503, "service_unavailable", "1", True),
        (504, "service_timeout", "1", True),
        (429, "session_busy", "10", True),
        (503, "service_unavailable", "", False),
        (500, "internal_error", "1", False),
        (429, "rate_limit_exceeded", "1", False),
        (401, "invalid_api_key", "", False),
    ],
)
def test_only_who_is_told_that_it_may_work_later_and_when_is_told_clearly(
    status: int, code: str, retry_after: str, *, clear: bool
) -> None:
    assert (unclear(status, code, retry_after) is None) is clear


def test_who_was_served_is_known_since_any_moment() -> None:
    ledger = Ledger()
    for began, good in [(1.0, True), (3.0, False), (4.0, True), (5.0, True)]:
        ledger.note(Outcome("a", "json", good, began, began + 0.5, ""))
    ledger.note(Outcome("b", "json", good=True, began=1.0, ended=9.0, told=""))
    assert ledger.good_since(2.0) == {"a": 2}
    assert ledger.first_good(2.0) == {"a": 1.5}


def test_the_short_selection_strikes_services_bus_and_database_and_the_full_one_everything() -> None:
    short = {case.id.partition(".")[0] for case in selected("short", [])}
    assert {"auth", "set", "cluster"} <= short
    assert selected("full", []) == list(SERVER_CASES)
    assert set(on_stacks(selected("short", []))) == {Servers.THREE}
    assert set(on_stacks(selected("full", []))) == {Servers.ONE, Servers.THREE}
    assert set(on_stacks(selected("full", ["auth.kill"]))) == {Servers.ONE}
    assert [case.id for case in selected("short", ["power"])] == ["power"]
    with pytest.raises(ValueError, match=r"no case is called nats\.eaten"):
        selected("short", ["nats.eaten"])


def test_a_skewed_process_has_the_wrong_time_wherever_it_asks() -> None:
    """C47"""
    program = (
        "from tests.faults.skewed import move\n"
        f"move({SKEW})\n"
        "import time\n"
        "from datetime import UTC, datetime\n"
        "from morpheus_common.clock import utc_now\n"
        "from morpheus_common.ids import uuid7\n"
        "print(time.time(), utc_now().timestamp(), datetime.now(UTC).timestamp(), int(uuid7()[:13].replace('-', ''), 16) / 1000)"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    for moment in map(float, told.stdout.split()):
        assert abs(moment - time.time() - SKEW) < SKEW / 10
