"""What every service measures moves when what it measures happens."""

import asyncio
import json
import logging
from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog
from morpheus_common.bus import connection as bus_connection
from morpheus_common.bus.connection import make_broker
from morpheus_common.bus.names import User
from morpheus_common.bus.rpc import RpcClient, RpcMiddleware
from morpheus_common.contracts.base import Empty
from morpheus_common.contracts.health import PING
from morpheus_common.errors import ApiError
from morpheus_common.logs import configure_logs, get_logger
from morpheus_common.settings import CommonSettings
from morpheus_common.store.metrics import CommandWatch
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from pydantic import SecretStr

from tests.metrics import Moves, shown

PINGING = PING[User.AUTH]
HEALTH = {"version": "1", "worker": "w1", "components": {"database": True}, "degraded": []}
SEED = "SUAAVBDOEZPZRAL4NAHUZIM5UVZMMBSIMTIRFUEJK53T6KR74MGV6BSDRE"


def bus(answer: Any) -> Client:
    async def request(*_: Any, **__: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(data=json.dumps(answer).encode())

    return cast("Client", SimpleNamespace(is_connected=True, request=request))


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ({"ok": HEALTH}, "ok"),
        ({"error": {"code": "session_not_found", "message": "x"}}, "refused"),
        ({"error": {"code": "overloaded", "message": "x"}}, "overloaded"),
        (NoRespondersError(), "service_unavailable"),
        (TimeoutError(), "service_timeout"),
        (b"no envelope".hex(), "internal_error"),
    ],
)
async def test_a_question_is_counted_by_what_came_of_it(answer: Any, code: str) -> None:
    moves = Moves()
    asking = RpcClient(bus(answer)).call(PINGING, Empty())
    await asyncio.gather(asking, return_exceptions=True)
    assert moves.of("morpheus_rpc_client_total", rpc="auth.ping", code=code) == 1
    assert moves.of("morpheus_rpc_client_seconds_count", rpc="auth.ping") == 1


async def handled(outcome: Any, subject: str = PINGING.subject) -> None:
    async def handle(_: Any) -> Any:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    raw = Msg(cast("Client", None), subject=subject, reply="_INBOX_gw.1", headers={})
    middleware = RpcMiddleware(raw, context=cast("Any", None))
    await middleware.consume_scope(handle, cast("Any", SimpleNamespace(raw_message=raw)))


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (Empty(), "ok"),
        (ApiError("invalid_api_key"), "refused"),
        (ApiError("service_unavailable"), "service_unavailable"),
        (LookupError("a mistake"), "internal_error"),
    ],
)
async def test_an_answer_is_counted_by_what_was_said(outcome: Any, code: str) -> None:
    moves = Moves()
    await handled(outcome)
    assert moves.of("morpheus_rpc_server_total", rpc="auth.ping", code=code) == 1
    assert moves.of("morpheus_rpc_server_seconds_count", rpc="auth.ping") == 1


async def test_who_is_cancelled_with_its_process_has_answered_nobody() -> None:
    moves = Moves()
    with pytest.raises(asyncio.CancelledError):
        await handled(asyncio.CancelledError())
    assert moves.of("morpheus_rpc_server_seconds_count", rpc="auth.ping") == 0


async def test_a_subject_of_no_contract_has_one_name_for_all() -> None:
    """C49."""
    moves = Moves()
    for number in range(3):
        await handled(Empty(), subject=f"rpc.auth.what-{number}.v1")
    assert moves.of("morpheus_rpc_server_total", rpc="unknown", code="ok") == 3


def event(name: str, **more: Any) -> Any:
    return SimpleNamespace(command_name=name, duration_micros=2_000, **more)


def test_commands_of_the_database_are_measured_and_those_that_failed_counted() -> None:
    watch, moves = CommandWatch(), Moves()
    watch.succeeded(event("find"))
    watch.succeeded(event("a command of tomorrow"))
    watch.failed(event("find", failure={"code": 91, "errmsg": "shutting down"}))
    assert moves.of("morpheus_database_seconds_count", command="find") == 2
    assert moves.of("morpheus_database_seconds_sum", command="find") == pytest.approx(0.004)
    assert moves.of("morpheus_database_seconds_count", command="other") == 1
    assert moves.of("morpheus_database_errors_total", command="find") == 1


@pytest.mark.parametrize("code", [112, 11_000])
def test_who_is_told_that_another_was_faster_was_answered_all_the_same(code: int) -> None:
    moves = Moves()
    CommandWatch().failed(event("findAndModify", failure={"code": code}))
    assert moves.of("morpheus_database_errors_total", command="findAndModify") == 0


async def test_the_bus_is_shown_as_connected_only_while_it_is() -> None:
    broker = make_broker(CommonSettings(nats_seed=SecretStr(SEED), nats_url="nats://127.0.0.1:9"), User.AUTH)
    assert shown("morpheus_bus_connected") == 0
    broker._connection = cast("Any", SimpleNamespace(is_connected=True))
    assert shown("morpheus_bus_connected") == 1
    broker._connection = cast("Any", SimpleNamespace(is_connected=False))
    assert shown("morpheus_bus_connected") == 0


async def test_what_the_client_of_the_bus_reports_is_counted() -> None:
    moves = Moves()
    await bus_connection._log_error(RuntimeError("permissions violation"))
    await bus_connection._log_reconnect()
    assert moves.of("morpheus_bus_errors_total") == 1
    assert moves.of("morpheus_bus_reconnects_total") == 1


def test_lines_of_the_log_are_counted_by_level_ours_and_those_of_libraries(capfd: pytest.CaptureFixture[str]) -> None:
    root, before = logging.getLogger(), structlog.get_config()
    handlers, level = root.handlers, root.level
    try:
        configure_logs("test", "w1", "INFO")
        moves = Moves()
        log = get_logger("ours")
        log.info("one")
        log.debug("not written")
        log.error("two")
        logging.getLogger("theirs").warning("three")
        logging.getLogger("theirs").log(35, "of a level of their own")
    finally:
        structlog.configure(**before)
        root.handlers, root.level = handlers, level
    assert len(capfd.readouterr().err.splitlines()) == 4
    by_level = {
        level: moves.of("morpheus_log_records_total", level=level) for level in ("debug", "info", "warning", "error")
    }
    assert by_level == {"debug": 0, "info": 1, "warning": 1, "error": 1}
    assert moves.of("morpheus_log_records_total", level="other") == 1
