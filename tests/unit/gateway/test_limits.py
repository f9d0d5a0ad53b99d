"""Counting what costs."""

import asyncio
import random
import re
from pathlib import Path

import pytest
from morpheus_common.errors import ApiError
from morpheus_gateway import limits, windows
from morpheus_gateway.limits import PROVEN_SECONDS, FailureLimit, Limit, Limits, RateLimited, Standing, go_duration
from morpheus_gateway.settings import GatewaySettings
from morpheus_gateway.windows import MAX_CALLERS, Window, WindowMemory
from pydantic import SecretStr, ValidationError


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def a_minute(limit: int, clock: Clock) -> Limit:
    return Limit("test", Window(limit, 60), clock=clock)


async def test_so_many_in_any_minute_and_no_more(clock: Clock) -> None:
    limit = a_minute(2, clock)
    assert await limit.take("a") == Standing(limit=2, remaining=1, reset=60.0)
    clock.now += 20
    assert await limit.take("a") == Standing(limit=2, remaining=0, reset=60.0)
    clock.now += 30.5
    with pytest.raises(RateLimited) as caught:
        await limit.take("a")
    # the first of the two leaves the minute in 9.5 s, the second in 29.5 s
    assert (caught.value.code, caught.value.retry_after) == ("rate_limit_exceeded", 10)
    assert caught.value.standing == Standing(limit=2, remaining=0, reset=29.5)
    clock.now += 9.5
    assert (await limit.take("a")).remaining == 0


async def test_what_was_refused_does_not_count(clock: Clock) -> None:
    limit = a_minute(1, clock)
    await limit.take("a")
    for _ in range(5):
        clock.now += 10
        with pytest.raises(RateLimited):
            await limit.take("a")
    clock.now += 10
    assert (await limit.take("a")).remaining == 0


async def test_a_look_counts_nothing(clock: Clock) -> None:
    limit = a_minute(1, clock)
    for _ in range(3):
        assert await limit.look("a") == Standing(limit=1, remaining=1, reset=0.0)
    await limit.take("a")
    with pytest.raises(RateLimited):
        await limit.look("a")


async def test_of_two_windows_each_holds_and_the_tighter_is_told(clock: Clock) -> None:
    limit = Limit("test", Window(2, 60), Window(3, 3_600), clock=clock)
    assert await limit.take("a") == Standing(limit=2, remaining=1, reset=60.0)
    assert await limit.take("a") == Standing(limit=2, remaining=0, reset=60.0)
    with pytest.raises(RateLimited) as caught:
        await limit.take("a")
    assert caught.value.retry_after == 60
    clock.now += 60
    assert await limit.take("a") == Standing(limit=3, remaining=0, reset=3_600.0)
    with pytest.raises(RateLimited) as caught:
        await limit.take("a")
    assert caught.value.retry_after == 3_540


async def test_what_the_longer_window_refuses_does_not_count_in_the_shorter_one(clock: Clock) -> None:
    limit = Limit("test", Window(2, 60), Window(1, 100), clock=clock)
    await limit.take("a")
    clock.now += 90
    for _ in range(5):
        with pytest.raises(RateLimited):
            await limit.take("a")
    clock.now += 10
    assert (await limit.take("a")).remaining == 0
    with pytest.raises(RateLimited) as caught:
        await limit.take("a")
    assert caught.value.standing.limit == 1


async def test_a_hundred_at_once_on_a_limit_of_ten_are_exactly_ten(clock: Clock) -> None:
    """C18, F38"""
    limit = a_minute(10, clock)
    answers = await asyncio.gather(*(limit.take("a") for _ in range(100)), return_exceptions=True)
    assert sum(isinstance(answer, Standing) for answer in answers) == 10
    assert sum(isinstance(answer, RateLimited) for answer in answers) == 90


async def test_when_both_windows_are_full_the_longer_wait_is_told(clock: Clock) -> None:
    limit = Limit("test", Window(1, 10), Window(1, 40), clock=clock)
    await limit.take("a")
    with pytest.raises(RateLimited) as caught:
        await limit.take("a")
    assert caught.value.retry_after == 40


async def test_callers_do_not_count_for_each_other(clock: Clock) -> None:
    limit = a_minute(1, clock)
    await limit.take("a")
    assert (await limit.take("b")).remaining == 0


def memory(clock: Clock, *windows: Window) -> WindowMemory:
    return WindowMemory(windows, clock)


def is_taken(memory: WindowMemory, caller: str = "a") -> bool:
    return memory.count(caller, take=True).stamp is not None


@pytest.mark.parametrize("limit", [1, 60, 600])
def test_no_window_wherever_it_begins_holds_more_than_the_limit(clock: Clock, limit: int) -> None:
    chance, counted = random.Random(limit), memory(clock, Window(limit, 60))
    taken = []
    for _ in range(20 * limit):
        clock.now += chance.expovariate(limit / 20)
        if is_taken(counted):
            taken.append(clock.now)
    assert len(taken) > 3 * limit
    assert all(later - first >= 60 for first, later in zip(taken, taken[limit:], strict=False))
    # and none was refused that had room: as soon as one leaves, the next is let in
    clock.now = taken[-limit] + 60
    assert is_taken(counted)


def test_what_has_left_is_not_kept(clock: Clock) -> None:
    counted = memory(clock, Window(600, 60))
    for _ in range(50_000):
        clock.now += 0.2
        assert is_taken(counted)
    assert counted._size == len(counted._callers["a"].times) <= 2 * 300 + 2
    clock.now += 61
    assert counted.count("a", take=False).counts == [(0, 0.0, 0.0)]


def test_callers_whose_windows_have_passed_are_forgotten_as_others_come(clock: Clock) -> None:
    counted = memory(clock, Window(5, 60))
    for number in range(1_000):
        assert is_taken(counted, f"early {number}")
    clock.now += 61
    for number in range(600):
        assert is_taken(counted, f"late {number}")
    assert len(counted._callers) == counted._size == 600


async def test_the_caller_that_did_not_count_for_longest_is_forgotten_in_the_end(clock: Clock) -> None:
    limit = a_minute(2, clock)
    for caller in ("often", "once", "often", *map(str, range(MAX_CALLERS - 1))):
        await limit.take(caller)
    assert len(limit._memory._callers) == MAX_CALLERS
    assert (await limit.look("once")).remaining == 2
    with pytest.raises(RateLimited):
        await limit.look("often")


def test_what_is_remembered_of_all_callers_has_an_end(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "MAX_STAMPS", 100)
    counted = memory(clock, Window(30, 60))
    for caller in "abcd":
        for _ in range(30):
            assert is_taken(counted, caller)
    assert counted._size == 90
    assert list(counted._callers) == ["b", "c", "d"]


def test_what_is_given_back_does_not_count(clock: Clock) -> None:
    counted = memory(clock, Window(2, 60))
    stamps = []
    for _ in range(2):
        clock.now += 1
        stamps.append(counted.count("a", take=True).stamp)
    assert not is_taken(counted)
    counted.give_back("a", stamps[0] or 0.0)
    assert counted.count("a", take=False).counts == [(1, 0.0, 60.0)]
    for stamp in (stamps[0], 5.0):
        # given back already, and never counted
        counted.give_back("a", stamp or 0.0)
    assert counted._size == 1
    assert is_taken(counted)
    assert not is_taken(counted)


def failures(limit: int, clock: Clock) -> FailureLimit:
    return FailureLimit(a_minute(limit, clock), frozenset({"invalid_api_key"}), clock=clock)


async def fail(tries: FailureLimit, credential: str | None = None, code: str = "invalid_api_key") -> str:
    """Try and fail; return the code of the error that came."""
    try:
        async with tries.attempt("a", credential):
            await asyncio.sleep(0)
            raise ApiError(code)
    except ApiError as error:
        return error.code


async def succeed(tries: FailureLimit, credential: str | None = None) -> None:
    async with tries.attempt("a", credential):
        await asyncio.sleep(0)


async def test_only_failures_count_and_only_those_of_the_kind(clock: Clock) -> None:
    tries = failures(2, clock)
    for _ in range(5):
        await succeed(tries)
        assert await fail(tries, code="service_unavailable") == "service_unavailable"
    assert [await fail(tries) for _ in range(3)] == ["invalid_api_key", "invalid_api_key", "rate_limit_exceeded"]
    with pytest.raises(RateLimited):
        await succeed(tries)
    clock.now += 60
    await succeed(tries)


@pytest.mark.parametrize("same", [False, True])
async def test_a_hundred_wrong_ones_at_once_on_a_limit_of_ten_are_exactly_ten(clock: Clock, same: bool) -> None:
    """C18"""
    tries = failures(10, clock)
    names = ("k" if same else f"k{number}" for number in range(100))
    codes = await asyncio.gather(*(fail(tries, name) for name in names))
    assert sorted(set(codes)) == ["invalid_api_key", "rate_limit_exceeded"]
    assert codes.count("invalid_api_key") == 10
    assert tries._tried == {}


async def test_one_good_credential_is_never_too_many_at_once(clock: Clock) -> None:
    tries = failures(1, clock)
    await asyncio.gather(*(succeed(tries, "good") for _ in range(100)))
    assert tries._tried == {}


async def test_those_who_wait_for_the_same_credential_go_on_together_when_nobody_could_judge_it(clock: Clock) -> None:
    tries = failures(1, clock)
    codes = await asyncio.gather(*(fail(tries, "k", code="service_unavailable") for _ in range(20)))
    assert set(codes) == {"service_unavailable"}


async def test_a_credential_that_was_good_is_let_through_whatever_its_neighbours_do(clock: Clock) -> None:
    tries = failures(1, clock)
    await succeed(tries, "good")
    await fail(tries, "bad")
    await succeed(tries, "good")
    assert await fail(tries, "bad") == "rate_limit_exceeded"
    clock.now += 59
    await fail(tries, "good")
    with pytest.raises(RateLimited):
        await succeed(tries, "good")


async def test_a_credential_is_good_for_five_minutes_after_its_last_proof(clock: Clock) -> None:
    tries = failures(1, clock)
    await succeed(tries, "good")
    clock.now += PROVEN_SECONDS
    await fail(tries, "bad")
    await succeed(tries, "good")
    clock.now += PROVEN_SECONDS + 1
    await fail(tries, "bad")
    with pytest.raises(RateLimited):
        await succeed(tries, "good")


async def test_what_is_remembered_of_good_credentials_has_an_end(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_PROVEN", 2)
    tries = failures(1, clock)
    for name in ("first", "second", "first", "third"):
        await succeed(tries, name)
    assert list(tries._proven) == ["first", "third"]


@pytest.mark.parametrize(
    "url", ["memcached://store", "redis.example", "unix:///run/redis", "redis://user:se/cret@host"]
)
def test_a_store_that_cannot_be_used_is_refused_at_the_start_without_its_password(url: str) -> None:
    with pytest.raises(ValidationError, match="LIMITS_URL") as caught:
        GatewaySettings(nats_seed=SecretStr("SU"), limits_url=SecretStr(url))
    assert "se/cret" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["redis", "rediss", "valkey", "valkeys"])
def test_a_store_is_named_as_redis_or_valkey_with_tls_or_without(scheme: str) -> None:
    url = SecretStr(f"{scheme}://user:password@store:6379/0")
    assert GatewaySettings(nats_seed=SecretStr("SU"), limits_url=url).limits_url == url


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.85, "850ms"),
        (1, "1s"),
        (1.5, "1.5s"),
        (59.9995, "1m0s"),
        (60.000000000007276, "1m0s"),
        (360, "6m0s"),
        (3600.25, "1h0m0.25s"),
    ],
)
def test_durations_are_written_as_go_does(seconds: float, text: str) -> None:
    assert go_duration(seconds) == text


DEFAULTS = {
    "registrations_per_hour": 5,
    "registrations_per_day": 20,
    "failed_logins_per_ten_minutes": 10,
    "refreshes_per_minute": 60,
    "refused_credentials_per_minute": 60,
    "public_gets_per_minute": 600,
    "chats_per_minute": 60,
    "pings_per_minute": 6,
}


def test_the_defaults_are_those_of_the_operators_page_and_each_limit_can_be_set() -> None:
    fields = GatewaySettings.model_fields
    assert {
        name: field.default
        for name, field in fields.items()
        if re.search("_per_[a-z_]*(minute|minutes|hour|day)$", name)
    } == DEFAULTS
    rows = [line for line in Path("docs/operations.md").read_text().splitlines() if line.startswith("| `")]
    told: dict[str, str] = {}
    for row in rows:
        names, values = row.split("|")[1:3]
        told |= dict(zip(re.findall(r"`(\w+)`", names), re.findall(r"\d+", values), strict=False))
    assert {name: int(told[name.upper()]) for name in DEFAULTS} == DEFAULTS


async def test_each_setting_reaches_its_limit() -> None:
    numbers = {name: 1_000 + number for number, name in enumerate(DEFAULTS)}
    built = Limits.build(GatewaySettings(nats_seed=SecretStr("SU"), **numbers))  # type: ignore[arg-type]  # all are numbers
    looks = {
        "failed_logins_per_ten_minutes": built.failed_logins.look,
        "refreshes_per_minute": built.refreshes.look,
        "refused_credentials_per_minute": built.refused_credentials.look,
        "public_gets_per_minute": built.public_gets.look,
        "chats_per_minute": built.chats.look,
        "pings_per_minute": built.pings.look,
    }
    assert {name: (await look("a")).limit for name, look in looks.items()} == {name: numbers[name] for name in looks}
    hour, day = built.registrations._windows
    assert (hour.limit, day.limit) == (numbers["registrations_per_hour"], numbers["registrations_per_day"])
    assert [window.seconds for window in (hour, day)] == [3_600, 86_400]
    assert built.failed_logins._limit._windows[0].seconds == 600
    for limit in (built.chats, built.public_gets, built.refreshes, built.refused_credentials._limit, built.pings):
        assert [window.seconds for window in limit._windows] == [60]
