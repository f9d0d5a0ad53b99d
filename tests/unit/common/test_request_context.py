"""How long a caller still waits."""

import pytest
from morpheus_common.request_context import Deadline, deadline, request_id, seconds_left, traceparent


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    time = [100.0]
    monkeypatch.setattr("morpheus_common.request_context.time.monotonic", lambda: time[0])
    return time


def test_a_call_never_outlasts_its_own_caller(now: list[float]) -> None:
    token = deadline.set(Deadline.after(5))
    assert (seconds_left(3), seconds_left(60)) == (3, 5)
    now[0] += 4
    assert seconds_left(60) == 1
    now[0] += 4
    current = deadline.get()
    assert current is not None
    assert current.passed
    assert 0 < seconds_left(60) < 0.01
    deadline.reset(token)
    assert seconds_left(60) == 60


def test_a_trace_is_the_requests_own_and_every_step_in_it_another() -> None:
    assert traceparent() is None
    token = request_id.set("01890a5d-ac96-774b-bcce-b302099a8057")
    one, other = traceparent(), traceparent()
    request_id.reset(token)
    assert one is not None
    assert other is not None
    assert one.split("-")[:2] == other.split("-")[:2] == ["00", "01890a5dac96774bbcceb302099a8057"]
    assert one != other
