"""How long an answer of auth counts."""

import asyncio

import pytest
from morpheus_common.contracts.auth import Caller
from morpheus_common.errors import ApiError
from morpheus_gateway.callers import CallerCache

ADA = Caller(user_id="ada")


class Auth:
    """Answers as told; its answers take time on the test's own clock."""

    def __init__(self) -> None:
        self.now = 100.0
        self.asked = 0
        self.takes = 0.0
        self.error: ApiError | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def ask(self, _: str) -> Caller:
        self.asked += 1
        await self.gate.wait()
        self.now += self.takes
        if self.error is not None:
            raise self.error
        return ADA


@pytest.fixture
def auth() -> Auth:
    return Auth()


@pytest.fixture
def cache(auth: Auth) -> CallerCache:
    return CallerCache(auth.ask, clock=lambda: auth.now)


async def test_an_answer_counts_from_the_moment_its_question_was_sent(auth: Auth, cache: CallerCache) -> None:
    """C5."""
    auth.takes = 0.5
    assert await cache.check("k") is ADA
    auth.now += 0.3
    assert await cache.check("k") is ADA
    assert auth.asked == 1
    auth.now += 0.01
    await cache.check("k")
    assert auth.asked == 2


async def test_an_answer_that_took_too_long_is_none(auth: Auth, cache: CallerCache) -> None:
    """I6: what auth said then may have been revoked since."""
    auth.takes = 0.9
    with pytest.raises(ApiError) as caught:
        await cache.check("k")
    assert caught.value.code == "service_unavailable"
    assert auth.asked == 2


@pytest.mark.parametrize("code", ["service_unavailable", "service_timeout", "internal_error"])
async def test_without_an_answer_the_old_one_is_not_used(auth: Auth, cache: CallerCache, code: str) -> None:
    """C5."""
    await cache.check("k")
    auth.now += 1.0
    auth.error = ApiError(code)
    with pytest.raises(ApiError) as caught:
        await cache.check("k")
    assert caught.value.code == "service_unavailable"


async def test_questions_at_the_same_time_are_one(auth: Auth, cache: CallerCache) -> None:
    auth.gate.clear()
    asking = [asyncio.create_task(cache.check("k")) for _ in range(5)]
    await asyncio.sleep(0)
    asking[0].cancel()
    auth.gate.set()
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert answers[1:] == [ADA] * 4, "one that leaves does not spoil it for the others"
    assert auth.asked == 1


async def test_a_refusal_is_remembered_for_five_seconds(auth: Auth, cache: CallerCache) -> None:
    auth.error = ApiError("invalid_api_key")
    for _ in range(3):
        with pytest.raises(ApiError):
            await cache.check("k")
    assert auth.asked == 1
    auth.now += 5.0
    with pytest.raises(ApiError):
        await cache.check("k")
    assert auth.asked == 2


async def test_who_is_known_is_recognised_while_auth_is_asked_again(auth: Auth, cache: CallerCache) -> None:
    await cache.check("k")
    auth.now += 60.0
    auth.gate.clear()
    assert await cache.recognise("k") is ADA
    await asyncio.sleep(0)
    assert auth.asked == 2
    checking = asyncio.create_task(cache.check("k"))
    auth.gate.set()
    assert await checking is ADA
    assert auth.asked == 2, "the check takes the answer that is already on its way"


async def test_a_stranger_waits_for_auth(auth: Auth, cache: CallerCache) -> None:
    auth.error = ApiError("invalid_api_key")
    with pytest.raises(ApiError):
        await cache.recognise("k")


async def test_who_was_seen_long_ago_is_a_stranger(auth: Auth, cache: CallerCache) -> None:
    await cache.check("k")
    auth.now += 301.0
    auth.error = ApiError("invalid_api_key")
    with pytest.raises(ApiError):
        await cache.recognise("k")


async def test_a_revoked_key_is_forgotten(auth: Auth, cache: CallerCache) -> None:
    await cache.check("k")
    auth.now += 1.0
    auth.error = ApiError("invalid_api_key")
    with pytest.raises(ApiError):
        await cache.check("k")
    with pytest.raises(ApiError):
        await cache.recognise("k")


async def test_memory_is_bounded(auth: Auth, cache: CallerCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("morpheus_gateway.callers.MAX_KNOWN", 10)
    monkeypatch.setattr("morpheus_gateway.callers.MAX_WRONG", 10)
    for number in range(30):
        await cache.check(f"k{number}")
    auth.error = ApiError("invalid_api_key")
    for number in range(30):
        with pytest.raises(ApiError):
            await cache.check(f"wrong{number}")
    assert (len(cache._known), len(cache._wrong)) == (10, 10)
