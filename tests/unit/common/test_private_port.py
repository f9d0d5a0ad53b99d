import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from morpheus_common.metrics import show
from morpheus_common.private_port import ASKED_AT_ONCE, private_port
from morpheus_common.standing import STANDSTILL_SECONDS, Standing
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def standing(clock: Clock) -> Standing:
    return Standing(clock=clock)


@pytest.fixture
def port(standing: Standing) -> Iterator[int]:
    show(standing)
    with private_port("127.0.0.1", 0, standing) as port:
        assert port is not None
        yield port


def ask(port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_a_process_that_lacks_something_is_not_ready_and_says_what_and_lives_all_the_same(
    standing: Standing, port: int
) -> None:
    """C43."""
    there = {"database": True, "bus": True}
    standing.need("database", lambda: there["database"])
    standing.need("bus", lambda: there["bus"])

    assert ask(port, "/ready") == (200, '{"ready": true, "missing": []}\n')

    there["database"] = False

    status, body = ask(port, "/ready")
    assert (status, json.loads(body)) == (503, {"ready": False, "missing": ["database"]})
    assert ask(port, "/live")[0] == 200


def test_a_process_whose_event_loop_stands_still_no_longer_lives(clock: Clock, standing: Standing, port: int) -> None:
    """C43."""
    clock.now += STANDSTILL_SECONDS - 0.1
    assert ask(port, "/live")[0] == 200

    clock.now += 0.2
    assert ask(port, "/live") == (503, '{"live": false}\n')

    standing.turned()
    assert ask(port, "/live")[0] == 200


def test_metrics_tell_of_the_process_and_of_each_part_that_it_needs(standing: Standing, port: int) -> None:
    standing.need("bus", lambda: False)
    standing.need("database", lambda: True)

    status, text = ask(port, "/metrics")

    assert status == 200
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["morpheus_ready", "bus"] == 0
    assert samples["morpheus_ready", "database"] == 1
    assert samples["morpheus_event_loop_lag_seconds",] == 0
    assert samples["process_resident_memory_bytes",] > 0


def test_nothing_else_is_served(port: int) -> None:
    assert ask(port, "/")[0] == 404
    assert ask(port, "/metrics/../etc/passwd")[0] == 404


def test_askers_that_say_nothing_are_bounded_and_others_are_answered_after_them(port: int) -> None:
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(ASKED_AT_ONCE)]
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=3) as one_too_many:
            assert one_too_many.recv(1) == b""
    finally:
        for connection in silent:
            connection.close()

    _until_threads_have_left()
    assert ask(port, "/live")[0] == 200


def test_askers_that_are_slow_are_hung_up_on_however_they_dribble(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("morpheus_common.private_port.ASKER_SECONDS", 0.5)
    with socket.create_connection(("127.0.0.1", port), timeout=5) as slow:
        slow.sendall(b"GET /li")
        slow.settimeout(0.1)
        began = time.monotonic()
        is_open = True
        while is_open and time.monotonic() - began < 5:
            try:
                slow.sendall(b"v")
                is_open = slow.recv(1) != b""
            except TimeoutError:
                continue
            except OSError:
                is_open = False
    assert not is_open


def test_a_check_that_fails_says_that_the_part_is_missing(standing: Standing, port: int) -> None:
    def broken() -> bool:
        raise RuntimeError

    standing.need("bus", broken)

    assert ask(port, "/ready") == (503, '{"ready": false, "missing": ["bus"]}\n')
    assert ask(port, "/metrics")[0] == 200


def test_a_port_that_is_taken_is_named(standing: Standing, port: int) -> None:
    with capture_logs() as logs, pytest.raises(OSError, match="in use"), private_port("127.0.0.1", port, standing):
        pass
    [said] = logs
    assert (said["log_level"], said["port"]) == ("critical", port)
    assert "METRICS_PORT" in said["event"]


def test_it_listens_on_ipv6_where_that_is_set(standing: Standing) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        # a machine without IPv6: it is said, and nothing else is listened on
        with pytest.raises(OSError), private_port("::1", 0, standing):  # noqa: PT011 - the system's own words
            pass
        return
    with private_port("::1", 0, standing) as port, socket.create_connection(("::1", port or 0), timeout=5) as asker:
        asker.sendall(b"GET /live HTTP/1.0\r\n\r\n")
        assert b"200 OK" in asker.recv(100)


def _until_threads_have_left() -> None:
    for thread in threading.enumerate():
        if thread.name.startswith("Thread-") and "process_request_thread" in thread.name:
            thread.join(5)


def test_none_is_opened_unless_it_is_set(standing: Standing) -> None:
    with private_port("127.0.0.1", None, standing) as port:
        assert port is None
