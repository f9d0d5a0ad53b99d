"""Many ask, one reads."""

import asyncio

import pytest
from morpheus_sessions.sharing import Shared


class Source:
    """Answers when it is let, and counts how often it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.may_answer = asyncio.Event()
        self.problem: Exception | None = None
        self.now = 0.0

    async def read(self, key: str) -> str:
        self.asked.append(key)
        number = len(self.asked)
        await self.may_answer.wait()
        if self.problem is not None:
            raise self.problem
        return f"{key} {number}"

    def shared(self, most: int = 10) -> Shared[str, str]:
        return Shared(self.read, seconds=3.0, most=most, clock=lambda: self.now)


async def test_those_who_ask_while_it_is_read_or_soon_after_share_one_reading() -> None:
    source = Source()
    shared = source.shared()
    asking = [asyncio.create_task(shared.get("a")) for _ in range(60)]
    await asyncio.sleep(0)
    # a reading that takes long is not begun a second time beside itself
    source.now = 100.0
    late = asyncio.create_task(shared.get("a"))
    await asyncio.sleep(0)
    source.may_answer.set()
    assert set(await asyncio.gather(*asking, late)) == {"a 1"}
    assert source.asked == ["a"]

    source.now = 0.0
    assert [await shared.get("a"), await shared.get("b")] == ["a 1", "b 2"]
    source.now = 3.0
    assert await shared.get("a") == "a 3"


async def test_who_leaves_takes_the_reading_from_nobody() -> None:
    source = Source()
    shared = source.shared()
    first, second = (asyncio.create_task(shared.get("a")) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    source.may_answer.set()
    assert await second == "a 1"


async def test_a_failure_is_told_to_those_who_waited_and_not_remembered() -> None:
    source = Source()
    source.problem = ValueError("away")
    shared = source.shared()
    asking = [asyncio.create_task(shared.get("a")) for _ in range(3)]
    await asyncio.sleep(0)
    source.may_answer.set()
    assert [str(item) for item in await asyncio.gather(*asking, return_exceptions=True)] == ["away"] * 3
    source.problem = None
    assert await shared.get("a") == "a 2"

    source.problem = ValueError("away again")
    with pytest.raises(ValueError, match="again"):
        await shared.get("b")


async def test_no_more_things_are_remembered_than_may_be() -> None:
    source = Source()
    source.may_answer.set()
    shared = source.shared(most=2)
    assert [await shared.get(key) for key in "abc"] == ["a 1", "b 2", "c 3"]
    assert [await shared.get(key) for key in "bca"] == ["b 2", "c 3", "a 4"]
    assert len(shared._readings) == 2
