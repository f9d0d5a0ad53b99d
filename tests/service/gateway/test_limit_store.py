"""Limits counted in a real Valkey by several gateways."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from morpheus_common.errors import ApiError
from morpheus_devstack.ports import LOOPBACK, free_ports
from morpheus_devstack.processes import spawn
from morpheus_devstack.waiting import poll
from morpheus_gateway import limit_store
from morpheus_gateway.limit_store import STORE_SECONDS, SharedStore
from morpheus_gateway.limits import FailureLimit, Limit, RateLimited, Standing
from morpheus_gateway.windows import Window
from redis.asyncio import Redis
from structlog.testing import capture_logs

from tests.certificates import certified
from tests.servers import valkey_command
from tests.service.gateway.store_wire import StoreWire

SLACK = 1.5
"""So much later than it should an answer may come on a machine that does other things; by itself the client waits 2 s."""


@asynccontextmanager
async def store(url: str) -> AsyncIterator[SharedStore]:
    shared = SharedStore.at(url)
    await shared.open()
    try:
        yield shared
    finally:
        await shared.close()


@pytest.fixture
async def valkey(valkey_url: str) -> AsyncIterator[Redis]:
    """A client of the store, past all gateways."""
    async with Redis.from_url("redis" + valkey_url.removeprefix("valkey"), protocol=2) as client:
        yield client


@pytest.fixture
async def gateways(valkey_url: str) -> AsyncIterator[list[SharedStore]]:
    """What four gateways have of one store."""
    async with AsyncExitStack() as stack:
        those = [await stack.enter_async_context(store(valkey_url)) for _ in range(4)]

        async def all_answer() -> bool:
            await asyncio.gather(*(shared.open() for shared in those))
            return all(shared.answers for shared in those)

        # on a busy machine one was too late at the start, and is asked again in five seconds
        assert await poll(all_answer, seconds=20)
        yield those


def a_minute(limit: int, shared: SharedStore, **more: Any) -> Limit:
    return Limit("test", Window(limit, 60), shared=shared, **more)


async def calls(valkey: Redis) -> int:
    """Return how many questions came, since the test began."""
    found: dict[str, Any] = await valkey.info("commandstats")
    return sum(int(found.get(f"cmdstat_{name}", {}).get("calls", 0)) for name in ("eval", "evalsha"))


async def test_gateways_with_one_store_count_together(gateways: list[SharedStore]) -> None:
    one, other = (a_minute(3, shared) for shared in gateways[:2])
    assert (await one.take("a")).remaining == 2
    assert (await other.look("a")).remaining == 2
    assert (await other.take("a")).remaining == 1
    assert (await one.take("a")) == Standing(limit=3, remaining=0, reset=60.0)
    for limit in (one, other):
        with pytest.raises(RateLimited) as caught:
            await limit.take("a")
        assert 55 < caught.value.wait <= 60
        assert caught.value.standing.remaining == 0
    assert (await other.take("b")).remaining == 2


@pytest.mark.parametrize("count", [2, 4])
async def test_a_hundred_at_once_on_a_limit_of_ten_are_exactly_ten_over_all_gateways(
    gateways: list[SharedStore], count: int
) -> None:
    """C18, F38"""
    limits = [a_minute(10, shared) for shared in gateways[:count]]
    answers = await asyncio.gather(*(limits[number % count].take("a") for number in range(100)), return_exceptions=True)
    assert sum(isinstance(answer, Standing) for answer in answers) == 10
    assert sum(isinstance(answer, RateLimited) for answer in answers) == 90


async def test_no_window_wherever_it_begins_holds_more_than_the_limit(gateways: list[SharedStore]) -> None:
    limits = [Limit("test", Window(5, 1), shared=shared) for shared in gateways]
    chance, taken = random.Random(7), []
    until = time.monotonic() + 1.8
    while time.monotonic() < until:
        # stamps are the store's; as it is on this machine, they lie between these two
        before = time.monotonic()
        try:
            await chance.choice(limits).take("a")
        except RateLimited as refusal:
            # what is told is when there is room
            await asyncio.sleep(min(refusal.wait, 0.05) * chance.random())
        else:
            taken.append((before, time.monotonic()))
    assert len(taken) >= 6
    for (first, _), (_, later) in zip(taken, taken[5:], strict=False):
        assert later - first > 0.99


async def test_of_two_windows_each_holds_and_what_one_refuses_counts_in_none(gateways: list[SharedStore]) -> None:
    limit = Limit("test", Window(2, 1), Window(3, 60), shared=gateways[0])
    assert (await limit.take("a")) == Standing(limit=2, remaining=1, reset=1.0)
    assert (await limit.take("a")) == Standing(limit=2, remaining=0, reset=1.0)
    for _ in range(5):
        with pytest.raises(RateLimited) as refused:
            await limit.take("a")
        assert refused.value.wait <= 1

    async def has_room() -> bool:
        try:
            return (await limit.look("a")).remaining > 0
        except RateLimited:
            return False

    assert await poll(has_room, seconds=3)
    assert (await limit.take("a")) == Standing(limit=3, remaining=0, reset=60.0)
    with pytest.raises(RateLimited) as caught:
        await limit.take("a")
    assert caught.value.standing.limit == 3


async def test_gateways_whose_clocks_are_five_minutes_apart_count_the_same(gateways: list[SharedStore]) -> None:
    on_time = a_minute(2, gateways[0])
    fast = a_minute(2, gateways[1], clock=lambda: time.monotonic() + 300)
    slow = a_minute(2, gateways[2], clock=lambda: time.monotonic() - 300)
    await fast.take("a")
    await slow.take("a")
    for limit in (on_time, fast, slow):
        with pytest.raises(RateLimited) as caught:
            await limit.take("a")
        assert 55 < caught.value.wait <= 60


async def test_what_the_store_holds_names_nobody_and_leaves_with_its_window(
    gateways: list[SharedStore], valkey: Redis
) -> None:
    # of the gateways' first questions
    await valkey.flushall()
    await a_minute(3, gateways[0]).take("203.0.113.9")
    await Limit("day", Window(3, 60), Window(5, 86_400), shared=gateways[0]).take("2001:db8:0:1::/64")
    # a look leaves nothing
    await a_minute(3, gateways[0]).look("198.51.100.1")
    keys = sorted(await valkey.keys())
    lives = [await valkey.pttl(key) for key in keys]
    assert len(keys) == 2
    assert not any(part in key for key in keys for part in (b"203.0.113", b"2001", b"db8"))
    assert 86_390_000 < lives[0] <= 86_400_000
    assert 55_000 < lives[1] <= 60_000
    for key in keys:
        assert await valkey.lrange(key, 0, -1) == [await valkey.lindex(key, 0)]


async def test_what_did_not_fail_is_given_back_and_of_a_hundred_guesses_ten_are_tried_over_all_gateways(
    gateways: list[SharedStore],
) -> None:
    """C18"""
    limits = [FailureLimit(a_minute(10, shared), frozenset({"invalid_api_key"})) for shared in gateways]
    tried = 0

    async def fail(tries: FailureLimit) -> None:
        nonlocal tried
        async with tries.attempt("a"):
            tried += 1
            await asyncio.sleep(0.01)
            raise ApiError("invalid_api_key")

    for _ in range(15):
        for tries in limits:
            async with tries.attempt("a"):
                pass
    answers = await asyncio.gather(*(fail(limits[number % 4]) for number in range(100)), return_exceptions=True)
    assert tried == 10
    assert sum(isinstance(answer, RateLimited) for answer in answers) == 90


async def test_what_is_asked_in_one_moment_goes_together(gateways: list[SharedStore], valkey: Redis) -> None:
    limit = a_minute(1_000, gateways[0])
    await limit.take("a")
    before = await calls(valkey)
    await asyncio.gather(*(limit.take(str(number % 7)) for number in range(200)))
    assert await calls(valkey) - before == 4


async def test_who_was_refused_a_moment_ago_costs_the_store_nothing(gateways: list[SharedStore], valkey: Redis) -> None:
    """C16"""
    now = 1_000.0
    limit = a_minute(1, gateways[0], clock=lambda: now)
    await limit.take("a")

    async def refusal() -> RateLimited:
        with pytest.raises(RateLimited) as caught:
            await limit.take("a")
        return caught.value

    first = await refusal()
    before = await calls(valkey)
    now += 0.5
    later = await refusal()
    assert (later.wait, later.standing.reset) == (first.wait - 0.5, first.standing.reset - 0.5)
    assert await calls(valkey) == before
    now += 0.5
    await refusal()
    assert await calls(valkey) == before + 1


async def test_a_store_that_forgot_the_script_is_given_it_again(gateways: list[SharedStore], valkey: Redis) -> None:
    limit = a_minute(2, gateways[0])
    await limit.take("a")
    await valkey.script_flush()
    assert (await limit.take("a")).remaining == 0


async def test_a_connection_that_the_store_closed_while_idle_is_no_failure(
    gateways: list[SharedStore], valkey: Redis
) -> None:
    limit = a_minute(3, gateways[0])
    await limit.take("a")
    with capture_logs() as logs:
        await valkey.client_kill_filter(_type="normal", skipme=True)
        assert (await limit.take("a")).remaining == 1
    assert logs == []


@pytest.fixture
async def wire(valkey_url: str) -> AsyncIterator[StoreWire]:
    wire = StoreWire(int(valkey_url.rpartition(":")[2]))
    await wire.start()
    yield wire
    await wire.stop()


def cut(wire: StoreWire) -> None:
    wire.cut()


def silent(wire: StoreWire) -> None:
    wire.says = b""


def saying(what: bytes) -> Callable[[StoreWire], None]:
    def speak(wire: StoreWire) -> None:
        wire.says = what

    return speak


async def test_a_slow_store_that_more_ask_than_it_answers_keeps_nobody_waiting(wire: StoreWire) -> None:
    """C20, F37: a call of 50 ms holds 64 questions."""
    async with store(f"redis://{LOOPBACK}:{wire.port}") as shared:
        limit = a_minute(1, shared)
        wire.slow = 0.05
        await asyncio.gather(*(limit.take(f"before-{number}") for number in range(800)))
        asked = wire.tries
        await asyncio.gather(*(limit.take(f"now-{number}") for number in range(3_000)))
        # all of them in turn would be 47 calls
        assert wire.tries - asked < 23
        # it is asked on, by as many as it answers
        asked = wire.tries
        await limit.take("later")
        assert wire.tries == asked + 1


FAULTS = {
    "cut": cut,
    "silent": silent,
    "http": saying(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"),
    "no protocol": saying(b"\x00\xff\xfe garbage"),
    "no number": saying(b":abc\r\n"),
    "another shape": saying(b"*1\r\n*2\r\n:1\r\n:2\r\n"),
    "too few": saying(b"*0\r\n"),
    "words": saying(b"*1\r\n*4\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n$1\r\nd\r\n"),
    "ok": saying(b"+OK\r\n"),
    "nothing": saying(b"$-1\r\n"),
    "half": saying(b"*1\r\n*4\r\n:1\r\n"),
    "loading": saying(b"-LOADING the dataset is loaded into memory\r\n"),
    "no rights": saying(b"-NOPERM no permission for redis://user:secret@store\r\n"),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_while_the_store_is_away_each_gateway_counts_for_itself_and_nobody_waits(
    wire: StoreWire, valkey_url: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C20, F37"""
    monkeypatch.setattr(limit_store, "STORE_AWAY_SECONDS", 0.05)
    async with store(f"redis://{LOOPBACK}:{wire.port}") as shared:
        monkeypatch.setattr(limit_store, "CONNECT_SECONDS", 0.2)
        limit = a_minute(2, shared)
        await limit.take("a")
        FAULTS[fault](wire)
        with capture_logs() as logs:
            started = time.monotonic()
            answers = await asyncio.gather(*(limit.take("a") for _ in range(20)), return_exceptions=True)
            assert time.monotonic() - started < STORE_SECONDS + SLACK
            assert sum(isinstance(answer, Standing) for answer in answers) == 2
            assert sum(isinstance(answer, RateLimited) for answer in answers) == 18
            asked, took = wire.tries, []

            async def was_asked_again() -> bool:
                started = time.monotonic()
                with pytest.raises(RateLimited):
                    await limit.look("a")
                took.append(time.monotonic() - started)
                return wire.tries >= asked + 3

            # again and again, and no request waits for it
            assert await poll(was_asked_again, seconds=10)
            assert sorted(took)[len(took) // 2] < 0.1
        assert [line["log_level"] for line in logs] == ["warning"]
        assert "secret" not in str(logs)

        wire.says = None
        wire.mend()

        async def is_back() -> bool:
            await limit.look("b")
            return not shared._is_away

        with capture_logs() as logs:
            assert await poll(is_back, seconds=5)
        assert [line["log_level"] for line in logs] == ["info"]
        async with store(valkey_url) as other:
            await limit.take("c")
            assert (await a_minute(2, other).take("c")).remaining == 0


async def test_a_store_that_was_killed_is_found_again_when_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C20"""
    monkeypatch.setattr(limit_store, "STORE_AWAY_SECONDS", 0.05)
    port = free_ports(1)[0]
    async with store(f"valkey://{LOOPBACK}:{port}") as shared:
        limit = a_minute(3, shared)

        async def counts_together() -> bool:
            await limit.look("a")
            return not shared._is_away

        # not there yet: this is how a gateway starts before its store
        assert (await limit.take("a")).remaining == 2
        for _ in range(2):
            process = await spawn(valkey_command(tmp_path, port))
            assert await poll(counts_together, seconds=10)
            # it has forgotten what it knew
            assert (await limit.take("a")).remaining == 2
            process.kill()
            await process.wait()
            assert (await limit.look("a")).remaining <= 2


async def test_a_store_whose_password_is_wrong_is_away(valkey_url: str) -> None:
    with capture_logs() as logs:
        async with store(valkey_url.replace("://", "://gateway:not-this-one@")) as shared:
            assert (await a_minute(2, shared).take("a")).remaining == 1
    assert [line["log_level"] for line in logs] == ["warning"]
    assert "not-this-one" not in str(logs)


async def test_a_store_that_takes_no_writes_is_away_until_it_does(
    valkey: Redis, gateways: list[SharedStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limit_store, "STORE_AWAY_SECONDS", 0.0)
    limit = a_minute(3, gateways[0])
    await valkey.config_set("maxmemory", 1)
    try:
        with capture_logs() as logs:
            assert (await limit.take("a")).remaining == 2

            async def was_asked_again() -> bool:
                await limit.look("a")
                return await calls(valkey) >= 3

            assert await poll(was_asked_again, seconds=5)
        assert [line["log_level"] for line in logs] == ["warning"]
    finally:
        await valkey.config_set("maxmemory", 0)


async def test_a_store_is_reached_by_tls_and_only_if_its_certificate_is_good(valkey_url: str, tmp_path: Path) -> None:
    authority, context = certified(tmp_path)
    wire = StoreWire(int(valkey_url.rpartition(":")[2]), context)
    await wire.start()
    url = f"valkeys://{LOOPBACK}:{wire.port}"
    with capture_logs() as logs:
        async with store(f"{url}?ssl_ca_certs={authority}") as shared, store(valkey_url) as plain:
            assert (await a_minute(2, shared).take("a")).remaining == 1
            assert (await a_minute(2, plain).take("a")).remaining == 0
        assert logs == []
        async with store(url) as stranger:
            assert (await a_minute(2, stranger).take("a")).remaining == 1
        assert [line["log_level"] for line in logs] == ["warning"]
    await wire.stop()


async def test_who_waits_for_a_store_that_is_left_is_counted_in_memory(wire: StoreWire) -> None:
    async with store(f"redis://{LOOPBACK}:{wire.port}") as shared:
        waiting = asyncio.create_task(a_minute(2, shared).take("a"))
        await asyncio.sleep(0)
    assert (await waiting).remaining == 1
