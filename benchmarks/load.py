"""Ways of asking: one after the other, so many at once, streams side by side."""

import asyncio
import re
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.client import Answer, Connection, RequestFailed
from benchmarks.targets import Target, Wish
from benchmarks.upstream import piece

_CONTENT = re.compile(rb'"content":"( [0-9.]+)"')


@dataclass(frozen=True)
class Burst:
    """What came of some seconds of asking at once. `own_cpu`: what the load generator itself took, in CPU-seconds."""

    requests: int
    seconds: float
    own_cpu: float


async def one_by_one(target: Target, count: int, wish: Wish | None = None) -> list[Answer]:
    """Ask `count` times on one connection, each when the one before has ended."""
    connection = Connection(target.url)
    data = target.prompt(0, wish)
    try:
        return [await connection.ask(data) for _ in range(count)]
    finally:
        connection.hang_up()


async def at_once(url: str, requests: Sequence[bytes], seconds: float) -> Burst:
    """Ask on as many connections as there are requests, each again and again, for so long."""
    until = time.monotonic() + seconds
    began, cpu = time.monotonic(), time.process_time()

    async def repeat(data: bytes) -> int:
        connection = Connection(url)
        asked = 0
        try:
            while time.monotonic() < until:
                await connection.ask(data)
                asked += 1
        finally:
            connection.hang_up()
        return asked

    counts = await gathered([repeat(data) for data in requests])
    return Burst(sum(counts), time.monotonic() - began, time.process_time() - cpu)


async def stream(target: Target, caller: int, wish: Wish) -> Answer:
    """Run one stream on a connection of its own. Raises `RequestFailed` if it is not as it was asked for."""
    connection = Connection(target.url)
    try:
        answer = await connection.ask(target.prompt(caller, wish))
    finally:
        connection.hang_up()
    check_stream(wish, answer)
    return answer


async def streams(target: Target, wishes: Sequence[Wish], *, over_seconds: float = 0.0) -> list[Answer]:
    """Run streams side by side, each of a caller of its own, begun evenly over so many seconds.

    Raises:
        RequestFailed: one was not as it was asked for.
    """

    async def run(number: int, wish: Wish) -> Answer:
        await asyncio.sleep(over_seconds * number / len(wishes))
        return await stream(target, number, wish)

    return await gathered([run(number, wish) for number, wish in enumerate(wishes)])


def check_stream(wish: Wish, answer: Answer) -> None:
    """Raise `RequestFailed` unless a stream says what was asked for: every chunk, in order, nothing of another's, an end."""
    said = [text.decode() for text in _CONTENT.findall(re.sub(rb'":\s+"', b'":"', bytes(answer.body)))]
    if said != [piece(wish.number, number) for number in range(wish.chunks)]:
        raise RequestFailed(f"a stream of {wish.chunks} chunks came with {len(said)}, or in another order")
    if b"data: [DONE]" not in answer.body[-64:]:
        raise RequestFailed("a stream came without its end")


async def gathered(doing: Sequence[Awaitable[Any]]) -> list[Any]:
    """Do all at once; the first failure ends the others."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_coroutine(one)) for one in doing]
    return [task.result() for task in tasks]


async def _coroutine(doing: Awaitable[Any]) -> Any:
    return await doing
