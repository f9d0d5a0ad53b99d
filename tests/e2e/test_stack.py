"""`morpheus up`: what it starts, what it survives, what it leaves behind."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx2
import nats
import pytest
from morpheus_devstack.waiting import poll
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from tests.e2e.stack import RunningStack, running_stack

PARTS = ["auth", "automation", "gateway", "mongod", "nats-server", "sessions", "simulator"]
BACK_SECONDS = 20.0
LLM = "llama-3.3-70b"
"""One of the simulated marketplace's models."""


def morpheus(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "morpheus_devstack", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    async def holds() -> bool:
        return condition()

    return asyncio.run(poll(holds, seconds=seconds))


def say(stack: RunningStack, text: str) -> httpx2.Response:
    """Chat with the demo key."""
    with httpx2.Client(base_url=stack.base_url, timeout=60) as http:
        body = {"model": LLM, "messages": [{"role": "user", "content": text}]}
        return http.post("/chat/completions", json=body, headers={"Authorization": f"Bearer {stack.api_key}"})


def test_every_part_is_a_process_of_its_own(stack: RunningStack) -> None:
    running = stack.folder.pids()
    assert sorted(running) == PARTS
    assert len(set(running.values())) == len(PARTS)
    assert all(is_alive(pid) for pid in running.values())


def test_files_with_secrets_are_their_owners_only(stack: RunningStack) -> None:
    for name in ("secrets.json", "stack.env", "demo.json", "mongo/member.key", "nats/nats-server.conf"):
        assert (stack.folder.path / name).stat().st_mode & 0o077 == 0, name


def test_the_demo_chat_was_shown(stack: RunningStack) -> None:
    assert "decentralised AI marketplace" in stack.said().partition("\nA: ")[2]


async def test_the_observer_hears_everything_and_publishes_nothing(stack: RunningStack) -> None:
    problems: list[str] = []

    async def note(error: Exception) -> None:
        problems.append(str(error).lower())

    async def is_refused() -> bool:
        return any("publish" in problem for problem in problems)

    connection = await nats.connect(stack.nats_url, error_cb=note)
    try:
        assert (await connection.jetstream().stream_info("EVENTS")).state.messages > 0
        pings = await connection.subscribe("rpc.auth.ping.v1")
        await pings.next_msg(timeout=5)
        assert problems == []
        await connection.publish("evt.sessions.session.opened.v1", b"{}")
        assert await poll(is_refused, seconds=5)
    finally:
        await connection.close()


def test_operators_read_and_write_nothing(stack: RunningStack) -> None:
    with MongoClient[dict[str, object]](stack.mongo_url) as ops:
        assert ops["auth"].list_collection_names()
        with pytest.raises(OperationFailure):
            ops["auth"]["users"].delete_many({})


def test_without_credentials_the_database_says_nothing(stack: RunningStack) -> None:
    address = stack.mongo_url.partition("@")[2].partition("/")[0]
    with MongoClient[dict[str, object]](f"mongodb://{address}/?directConnection=true") as nobody:
        with pytest.raises(OperationFailure):
            nobody["auth"].list_collection_names()


@pytest.mark.parametrize("name", PARTS)
def test_a_killed_part_comes_back_and_meanwhile_it_is_said_to_be_away(stack: RunningStack, name: str) -> None:
    killed = stack.send(name, signal.SIGKILL)
    assert asyncio.run(stack.until_replaced(name, killed)), stack.said()
    refused: list[httpx2.Response] = []

    def is_answered() -> bool:
        try:
            answer = say(stack, f"canary after {name}")
        except httpx2.TransportError:
            return False
        if answer.status_code != 200:
            refused.append(answer)
            return False
        return f"canary after {name}" in answer.text

    assert within(BACK_SECONDS, is_answered), refused[-1:]
    assert {answer.status_code for answer in refused} <= {503, 504}


def test_apply_finds_the_stack_and_is_repeatable(stack: RunningStack) -> None:
    done = morpheus("apply", "--data", str(stack.folder.path))
    assert (done.returncode, done.stderr) == (0, "")


def test_a_second_stack_in_the_same_folder_is_refused(stack: RunningStack) -> None:
    refused = morpheus("up", "--port", "0", "--data", str(stack.folder.path))
    assert refused.returncode == 1
    assert f"A stack is running in {stack.folder.path} (process {stack.process.pid})" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_stack_that_is_told_to_end_drains_and_its_data_survives(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running_stack(data) as first:
        running = first.folder.pids()
        first.process.send_signal(signal.SIGTERM)
        assert first.process.wait(30) == 0
        assert not any(is_alive(pid) for pid in running.values())
        assert first.folder.pids() == {}

    with running_stack(data) as second:
        assert (second.api_key, second.email, second.password) == (first.api_key, first.email, first.password)
        assert say(second, "canary").status_code == 200
        running = second.folder.pids()
        second.process.kill()
        second.process.wait()
        assert within(10, lambda: not any(is_alive(pid) for pid in running.values()))


def test_without_supervision_the_dead_stay_down_until_they_are_started(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running_stack(data, "--no-supervise") as stack:
        stack.send("sessions", signal.SIGKILL)
        assert within(5, lambda: "sessions was killed by SIGKILL; it stays down." in stack.said())
        assert "sessions" not in stack.folder.pids()
        refused = say(stack, "anybody?")
        assert refused.status_code in {503, 504}
        assert refused.json()["error"]["type"] == "server_error"
        assert morpheus("restart", "sessions", "--data", str(data)).returncode == 0
        assert asyncio.run(stack.until_ready())
        # on a busy machine its first sign of life may take longer than the word that it is there
        assert within(10, lambda: say(stack, "canary").status_code == 200)
        assert morpheus("down", "--data", str(data)).returncode == 0
        assert stack.process.wait(5) == 0
