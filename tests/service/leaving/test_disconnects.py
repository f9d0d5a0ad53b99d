"""Clients that leave, wherever their prompt is: nothing of it stays."""

import asyncio
import contextlib
import gc
import json
import os
import tracemalloc
from collections.abc import Awaitable, Callable

import pytest
from morpheus_common.bus.names import relay_inbox
from morpheus_common.contracts.chat import PromptHead
from morpheus_devstack.waiting import poll

from tests.load.canary import PATH
from tests.load.client import Answer, Client
from tests.service.leaving.conftest import OURS, BothEnds

TIMES = int(os.environ.get("DISCONNECTS", "10"))
"""At each place and in each mode; `make leaks` takes a hundred."""
AT_ONCE = min(TIMES, 25)
BYTES_EACH = 1_024
"""What a prompt that was left may cost in memory: what the allocator does not give back, no more."""
ONCE_BYTES = 64 * 1_024
"""What is made once, at whatever moment: on a busy machine it may be after the first look."""
PATIENCE = 20.0
MODEL = "llama-3.3-70b"


def body(*, stream: bool, text: str = "stay a while") -> bytes:
    return json.dumps({"model": MODEL, "stream": stream, "messages": [{"role": "user", "content": text}]}).encode()


def in_our_code() -> int:
    """Bytes that the services and their bus hold; the router and its chain are in this process too."""
    gc.collect()
    ours = [tracemalloc.Filter(inclusive=True, filename_pattern=f"*/{part}/*") for part in OURS]
    return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces(ours).traces)


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    async def holds() -> bool:
        answer = condition()
        return answer if isinstance(answer, bool) else await answer

    assert await poll(holds, seconds=PATIENCE), "what was waited for did not come"


async def whole(relay: BothEnds, key: str, *, stream: bool = False) -> Answer:
    client = relay.client()
    answer = await client.post(PATH, key, body(stream=stream))
    client.close()
    assert answer.status == 200, answer.body
    return answer


class Leavers:
    """Clients that ask at once and leave at once, each with a key of its own or all with one."""

    def __init__(self, relay: BothEnds, keys: list[str], *, stream: bool, text: str = "stay a while") -> None:
        self._relay = relay
        self._keys = keys
        self._body = body(stream=stream, text=text)
        self.clients: list[Client] = []
        self._asked: list[asyncio.Task[Answer]] = []

    async def come(self, *, arrived: Callable[[], bool | Awaitable[bool]]) -> None:
        for key in self._keys:
            client = self._relay.client()
            self.clients.append(client)
            self._asked.append(asyncio.create_task(client.post(PATH, key, self._body)))
        await until(arrived)

    async def leave(self) -> None:
        for client in self.clients:
            client.close()
        answers = await asyncio.gather(*self._asked)
        assert {answer.status for answer in answers if not answer.left} <= {503}
        assert sum(answer.left for answer in answers) > AT_ONCE // 2

    @property
    def here(self) -> int:
        """Those who wait for their answer. On a busy machine auth may not have known one in time."""
        return sum(not asked.done() for asked in self._asked)


Leave = Callable[[BothEnds, bool], Awaitable[None]]


async def waiting_for_a_session(relay: BothEnds, stream: bool) -> None:
    """All wait for one open, which goes on."""
    key = relay.auth.add_key()
    await relay.sessions.simulator.arm("handshake", "hang", count=None)
    leavers = Leavers(relay, [key] * AT_ONCE, stream=stream)
    await leavers.come(arrived=lambda: in_line_now(relay) == leavers.here)
    await leavers.leave()
    await until(lambda: len(relay.worker.chat) == 0)
    await relay.sessions.simulator.disarm()
    await whole(relay, key)


async def in_line(relay: BothEnds, stream: bool) -> None:
    """One prompt of the key runs, all others wait behind it; who stays is served in order."""
    key = relay.auth.add_key()
    await whole(relay, key)
    await relay.sessions.simulator.arm("chat", "stall")
    running = asyncio.create_task(whole(relay, key, stream=stream))
    await until(lambda: relay.sessions.simulator.struck("chat"))
    leavers = Leavers(relay, [key] * AT_ONCE, stream=stream)
    await leavers.come(arrived=lambda: in_line_now(relay) == leavers.here + 1)
    await leavers.leave()
    await until(lambda: in_line_now(relay) == 1)
    await relay.sessions.simulator.disarm()
    await running


async def before_the_first_byte(relay: BothEnds, stream: bool) -> None:
    """A router does not notice that nobody waits any more; its session is kept until it is done."""
    await _at_the_router(relay, stream, chunks=0)


async def in_the_middle(relay: BothEnds, stream: bool) -> None:
    """Of a stream, or of a large object on its way to the client."""
    if stream:
        await _at_the_router(relay, stream, chunks=3)
        return
    keys = await _warm_keys(relay)
    leavers = Leavers(relay, keys, stream=False, text="word " * 8_000)
    await leavers.come(arrived=lambda: any(client.received for client in leavers.clients))
    for client in leavers.clients:
        client.close()


async def _at_the_router(relay: BothEnds, stream: bool, *, chunks: int) -> None:
    keys = await _warm_keys(relay)
    await relay.sessions.simulator.arm("chat", "stall", count=None, at=chunks)
    leavers = Leavers(relay, keys, stream=stream)
    await leavers.come(arrived=lambda: _all_are_held(relay, leavers.here))
    if chunks:
        await until(lambda: sum(client.received > 0 for client in leavers.clients) == leavers.here)
    await leavers.leave()
    await until(lambda: len(relay.gateway.context.inbox) == 0)
    await relay.sessions.simulator.disarm()


async def _warm_keys(relay: BothEnds) -> list[str]:
    """Keys whose sessions are open; the same each time."""
    if not relay.keys:
        relay.keys += [relay.auth.add_key() for _ in range(AT_ONCE)]
        await asyncio.gather(*(whole(relay, key) for key in relay.keys))
    return relay.keys


async def _all_are_held(relay: BothEnds, count: int) -> bool:
    waiting = (await relay.sessions.simulator.state())["faults"]["waiting"]
    return bool(sum(waiting.get("chat", {}).values()) == count)


def in_line_now(relay: BothEnds) -> int:
    return sum(line.inside for line in relay.worker.chat._lines.values())


PLACES: dict[str, Leave] = {
    "waiting for a session": waiting_for_a_session,
    "in line": in_line,
    "before the first byte": before_the_first_byte,
    "in the middle": in_the_middle,
}
MODES = {"stream": True, "json": False}


async def test_clients_that_leave_at_any_place_leave_nothing_behind(relay: BothEnds) -> None:
    """F16, B7, B16, C33"""
    # from the start: what takes the place of something older is no growth
    tracemalloc.start()
    try:
        for leave in PLACES.values():
            for stream in MODES.values():
                # what is made once
                await leave(relay, stream)
        assert await relay.comes_to({"tasks": 10_000}) == {}
        await until(lambda: not len(relay.worker.usage))
        before, held = {"tasks": relay.held()["tasks"]}, in_our_code()
        for place, leave in PLACES.items():
            for mode, stream in MODES.items():
                for _ in range(TIMES // AT_ONCE):
                    await leave(relay, stream)
                assert (place, mode, await relay.comes_to(before)) == (place, mode, {})
        # what was used is held until the database has it, a kilobyte each
        await until(lambda: not len(relay.worker.usage))
        grown = in_our_code() - held
    finally:
        tracemalloc.stop()
    assert grown < ONCE_BYTES + len(PLACES) * len(MODES) * TIMES * BYTES_EACH
    assert not [owned for owned in relay.worker.chat._ownership.all() if owned.rest_left() > 0]
    assert (await relay.sessions.simulator.state())["max_unfinished_prompts_of_a_session"] == 1


def head(relay: BothEnds, attempt: str) -> PromptHead:
    return PromptHead(
        attempt=attempt,
        gateway="gw-test",
        request_id=attempt,
        user_id="u1",
        key_id=relay.key_id(relay.auth.add_key()),
        key_prefix="sk-abc",
        stream=True,
        body_bytes=2,
        open_wait=10,
    )


async def test_a_prompt_that_is_left_before_its_first_step_leaves_nothing_behind(relay: BothEnds) -> None:
    """F16, B7: a task that is cancelled before it began runs nothing of its own."""
    chat = relay.worker.chat
    before = relay.held()
    chat.start(head(relay, "a1"), relay_inbox("gw-test", "a1"), b"{}")
    prompt = chat.prompt("a1")
    assert prompt is not None
    prompt.leave()
    assert await relay.comes_to(before) == {}


async def test_a_prompt_whose_cancellation_was_swallowed_is_cancelled_again(
    relay: BothEnds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F16: up to Python 3.11 what waits for the database can swallow one."""
    chat = relay.worker.chat
    before = relay.held()
    claiming = asyncio.Event()

    async def swallow(_: str) -> None:
        claiming.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    monkeypatch.setattr(chat._ownership, "claim", swallow)
    chat.start(head(relay, "a1"), relay_inbox("gw-test", "a1"), b"{}")
    await claiming.wait()
    prompt = chat.prompt("a1")
    assert prompt is not None
    prompt.leave()
    assert await relay.comes_to(before) == {}
    assert await relay.sessions.simulator.prompts() == 0
