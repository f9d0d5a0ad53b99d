"""Processes are started again when they die, given up when they keep dying, and always ended."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from morpheus_devstack import processes
from morpheus_devstack.errors import StackError
from morpheus_devstack.processes import Command, Supervised
from morpheus_devstack.waiting import poll

SLEEPER = "import time; time.sleep(60)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
DYING = "import sys; sys.exit('no room left')"

Start = Callable[..., Supervised]


class Heard:
    """What was said, and how often the list of processes changed."""

    def __init__(self) -> None:
        self.sentences: list[str] = []
        self.changes = 0

    def changed(self) -> None:
        self.changes += 1


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def supervised(tmp_path: Path, heard: Heard) -> Start:
    def make(code: str, *, restarts: bool = True, grace: float = 5.0) -> Supervised:
        command = Command("part", (sys.executable, "-c", code), tmp_path / "part.log", grace_seconds=grace)
        return Supervised(command, say=heard.sentences.append, on_change=heard.changed, restarts=restarts)

    return make


async def until(condition: Callable[[], bool]) -> bool:
    async def holds() -> bool:
        return condition()

    return await poll(holds, seconds=10)


def gave_up() -> asyncio.Future[str]:
    return asyncio.get_running_loop().create_future()


async def test_a_dead_process_is_started_again(supervised: Start, heard: Heard) -> None:
    part = supervised(SLEEPER)
    await part.start()
    first = part.pid
    part.watch(gave_up())
    assert first is not None
    os.kill(first, signal.SIGKILL)
    assert await until(lambda: part.pid not in {None, first})
    assert heard.sentences == ["part was killed by SIGKILL; it is started again in 0.1 s."]
    assert heard.changes >= 3
    await part.stop()
    assert part.pid is None


async def test_a_process_that_keeps_dying_is_given_up_with_its_last_words(
    supervised: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "LONGEST_BACKOFF_SECONDS", 0.01)
    part, sentence = supervised(DYING), gave_up()
    await part.start()
    part.watch(sentence)
    said = await asyncio.wait_for(sentence, 20)
    assert said.startswith("part died 5 times within 60 s: part ended with status 1 (its last words: no room left)")
    await part.stop()


async def test_without_restarts_the_dead_stay_down_until_they_are_wanted(supervised: Start, heard: Heard) -> None:
    part = supervised(SLEEPER, restarts=False)
    process = await part.start()
    part.watch(gave_up())
    process.kill()
    assert await until(lambda: heard.sentences == ["part was killed by SIGKILL; it stays down."])
    assert part.pid is None
    part.start_now()
    assert await until(lambda: part.pid is not None)
    await part.stop()


async def test_a_process_deaf_to_sigterm_is_killed_after_its_grace(supervised: Start, heard: Heard) -> None:
    part = supervised(DEAF, grace=0.2)
    process = await part.start()
    assert await until(lambda: "deaf" in part.command.log.read_text())
    await part.stop()
    assert process.returncode == -signal.SIGKILL
    assert heard.sentences == ["part did not end within 0.2 s and was killed."]


async def test_a_program_that_does_not_exist_is_one_sentence(tmp_path: Path) -> None:
    command = Command("part", (str(tmp_path / "nothing"),), tmp_path / "part.log")
    with pytest.raises(StackError, match=r"^part could not be started: No such file or directory: .*nothing\.$"):
        await processes.spawn(command)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
async def test_a_child_does_not_outlive_a_parent_that_was_killed(tmp_path: Path) -> None:
    code = f"""
import asyncio, sys, time
from pathlib import Path
from morpheus_devstack.processes import Command, spawn
async def main():
    child = await spawn(Command("child", (sys.executable, "-c", {SLEEPER!r}), Path({str(tmp_path / "child.log")!r})))
    print(child.pid, flush=True)
    await child.wait()
asyncio.run(main())
"""
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    assert parent.stdout is not None
    child = int(await parent.stdout.readline())
    parent.kill()
    await parent.wait()
    assert await until(
        lambda: not Path(f"/proc/{child}/cmdline").exists() or not Path(f"/proc/{child}/cmdline").read_bytes()
    )


def test_last_words_say_what_is_wrong_with_a_setting(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        "port\n  Input should be a valid integer\n    For further information visit https://example.com/v\n\n"
    )
    assert processes.last_words(log) == "Input should be a valid integer"
    assert processes.last_words(tmp_path / "none") == ""
