"""What a router answers is a stranger's: too much, too deep, of other types. Nothing of it stops a worker."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import pytest
from morpheus_sessions.router import (
    ANSWER_BYTES,
    LARGEST_PAGE,
    MAX_TAG_LENGTH,
    MAX_TAGS,
    PAGE,
    Provider,
    Router,
    RouterRefused,
    RouterUnclear,
)
from morpheus_sessions.settings import RouterSettings
from pydantic import SecretStr

ADDRESS = "0x" + "0a" * 20
Answer = Callable[[httpx2.Request], httpx2.Response]


def chain_id(number: int) -> str:
    return f"0x{number:064x}"


def model_row(number: int, name: str = "llama", **fields: Any) -> dict[str, Any]:
    return {
        "Id": chain_id(number),
        "IpfsCID": chain_id(0),
        "Fee": 0,
        "Stake": 10**30,
        "Owner": ADDRESS,
        "Name": name,
        "Tags": ["LLM"],
        "CreatedAt": 1_748_000_000 + number,
        "IsDeleted": False,
        "ModelType": "LLM",
        **fields,
    }


def bid_row(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "Id": chain_id(number),
        "Provider": ADDRESS,
        "ModelAgentId": chain_id(1),
        "PricePerSecond": "10000000000000",
        "Nonce": "0",
        "CreatedAt": "1748000000",
        "DeletedAt": "0",
        **fields,
    }


def router_that(answer: Answer, *, read_timeout: float = 5.0) -> Router:
    settings = RouterSettings(name="r1", url="http://router.test", user="admin", password=SecretStr("x"))
    router = Router(settings, read_timeout=read_timeout)
    router.http = httpx2.AsyncClient(
        base_url="http://router.test", headers=router.http.headers, transport=httpx2.MockTransport(answer)
    )
    return router


def always(body: Any) -> Answer:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return lambda _: httpx2.Response(200, stream=httpx2.ByteStream(content))


def paged(name: str, rows: list[dict[str, Any]], asked: list[tuple[int, int]]) -> Answer:
    """Answer as the router pages a list."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        offset, limit = int(request.url.params["offset"]), int(request.url.params["limit"])
        assert request.url.params["order"] == "ASC"
        assert limit <= 255
        asked.append((offset, limit))
        return httpx2.Response(
            200, stream=httpx2.ByteStream(json.dumps({name: rows[offset : offset + limit]}).encode())
        )

    return answer


async def test_models_are_read_page_by_page() -> None:
    asked: list[tuple[int, int]] = []
    rows = [model_row(number) for number in range(2 * PAGE + 1)]
    models = await router_that(paged("models", rows, asked)).models()
    assert [model.id for model in models] == [row["Id"] for row in rows]
    assert asked == [(0, PAGE), (PAGE, PAGE), (2 * PAGE, PAGE)]


async def test_a_router_that_knows_no_pages_is_asked_once() -> None:
    calls = 0

    def everything(_: httpx2.Request) -> httpx2.Response:
        nonlocal calls
        calls += 1
        return httpx2.Response(
            200, stream=httpx2.ByteStream(json.dumps({"models": [model_row(n) for n in range(PAGE + 50)]}).encode())
        )

    assert len(await router_that(everything).models()) == PAGE + 50
    assert calls == 1


async def test_bids_are_read_in_the_largest_pages_there_are() -> None:
    asked: list[tuple[int, int]] = []
    rows = [bid_row(number) for number in range(500)]
    bids = await router_that(paged("bids", rows, asked)).active_bids_of(ADDRESS)
    assert len(bids) == 500
    assert asked == [(0, LARGEST_PAGE), (LARGEST_PAGE, LARGEST_PAGE)]


async def test_long_names_of_strangers_hide_no_model() -> None:
    """C42"""
    rows = [model_row(number, "x" * 90_000 if number % 3 == 0 else "llama") for number in range(PAGE + 20)]
    rows[7] = model_row(7, "y" * (ANSWER_BYTES + 1))
    asked: list[tuple[int, int]] = []
    models = await router_that(paged("models", rows, asked)).models()
    assert [model.id for model in models] == [row["Id"] for row in rows if row["Id"] != chain_id(7)]
    assert all(len(model.name) <= 129 for model in models)
    assert len(asked) < 40


async def test_names_and_tags_are_cut_to_what_is_shown_of_them() -> None:
    """C42"""
    row = model_row(1, "a\ud800b", Tags=["t" * 1_000] * 500)
    (model,) = await router_that(always({"models": [row]})).models()
    assert model.name == "a?b"
    assert len(model.tags) == MAX_TAGS
    assert {len(tag) for tag in model.tags} == {MAX_TAG_LENGTH}


async def test_an_answer_without_an_end_is_read_no_further_than_is_useful() -> None:
    """C42"""
    sent = 0

    class Endless(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            nonlocal sent
            while True:
                sent += 65_536
                yield b"[" * 65_536

    router = router_that(lambda _: httpx2.Response(200, stream=Endless()))
    for call in (router.balance(), router.approve(ADDRESS, 1, timeout=5)):
        with pytest.raises(RouterUnclear):
            await call
    assert sent <= 2 * (ANSWER_BYTES + 65_536)


async def test_an_answer_that_drips_is_given_up_when_the_time_of_the_call_is_over() -> None:
    class Dripping(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            while True:
                await asyncio.sleep(0.01)
                yield b" "

    router = router_that(lambda _: httpx2.Response(200, stream=Dripping()), read_timeout=0.1)
    async with asyncio.timeout(5):
        with pytest.raises(RouterUnclear):
            await router.latest_block()


async def test_nothing_is_asked_for_in_a_packed_form() -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        assert request.headers["accept-encoding"] == "identity"
        return httpx2.Response(200, stream=httpx2.ByteStream(b'{"block": 7}'))

    assert await router_that(answer).latest_block() == 7


async def test_the_words_of_a_refusal_are_kept() -> None:
    router = router_that(lambda _: httpx2.Response(500, stream=httpx2.ByteStream(b'{"error":"session not found"}')))
    with pytest.raises(RouterRefused) as caught:
        await router.latest_block()
    assert caught.value.text == "session not found"


STRANGE: list[Any] = [
    None,
    True,
    0,
    -1,
    1.5,
    10**400,
    "",
    "x",
    "-5",
    "0x",
    [],
    [None],
    [[]],
    {},
    {"Id": 1},
    "\ud800",
]
STRANGE_BYTES = [
    b"",
    b"null",
    b"[" * 100_000,
    b"{",
    b"\xff\xfe",
    b"NaN",
    b"1e999",
    b'{"block": 1e999}',
    b'{"block": NaN}',
]


def calls_of(router: Router) -> dict[str, Callable[[], Any]]:
    provider = Provider(ADDRESS, "host:1")
    return {
        "models": router.models,
        "providers": router.providers,
        "bids": lambda: router.active_bids_of(ADDRESS),
        "rated": lambda: router.rated_bids(chain_id(1)),
        "ratings": lambda: router.ratings(chain_id(1), most=10),
        "bid": lambda: router.bid(chain_id(1)),
        "block": router.latest_block,
        "figures": router.supply_and_budget,
        "balance": router.balance,
        "funds": router.funds,
        "allowance": lambda: router.allowance(ADDRESS),
        "session": lambda: router.session(chain_id(1)),
        "sessions": lambda: router.sessions_of_wallet(offset=0),
        "who": router.who,
        "initiate": lambda: router.initiate(provider=provider, bid_id=chain_id(1), stake=1, timeout=1),
        "approve": lambda: router.approve(ADDRESS, 1, timeout=1),
    }


ALL_CALLS = tuple(calls_of(router_that(always(None))))


@pytest.mark.parametrize("body", STRANGE_BYTES, ids=range(len(STRANGE_BYTES)))
async def test_what_is_no_answer_is_unclear_and_nothing_worse(body: bytes) -> None:
    """C42"""
    for call in calls_of(router_that(always(body))).values():
        with pytest.raises(RouterUnclear):
            await call()


@pytest.mark.parametrize("value", STRANGE, ids=range(len(STRANGE)))
async def test_a_value_of_another_type_is_unclear_or_read_and_nothing_worse(value: Any) -> None:
    """C42"""
    of_bids = ("bids", "rated", "ratings", "bid")
    names = ("models", "providers", "bids", "bid", "block", "supply", "budget", "mor", "eth", "allowance")
    tries = [(value, ALL_CALLS), (dict.fromkeys((*names, "session", "sessions"), value), ALL_CALLS)]
    tries += [({"models": [model_row(1) | {field: value}]}, ("models",)) for field in model_row(1)]
    for field in bid_row(1):
        changed = bid_row(1) | {field: value}
        tries.append(({"bids": [changed | {"Bid": changed, "Score": 1.0}], "bid": changed}, of_bids))
    tries.append(({"bids": [{"Bid": bid_row(1), "Score": value}]}, ("ratings",)))
    tries.append(({"bids": [value]}, of_bids))
    for body, calls in tries:
        made = calls_of(router_that(always(body)))
        for name in calls:
            try:
                await made[name]()
            except RouterUnclear:
                continue


@pytest.mark.parametrize("name", ["balance", "funds", "allowance", "figures", "block"])
@pytest.mark.parametrize("number", [10**400, str(10**400), 1 << 256, -1], ids=["huge", "text", "over", "below"])
async def test_a_number_that_no_chain_has_is_unclear(name: str, number: Any) -> None:
    """C42"""
    names = ("mor", "eth", "allowance", "supply", "budget", "block")
    with pytest.raises(RouterUnclear):
        await calls_of(router_that(always(dict.fromkeys(names, number))))[name]()


async def test_a_height_that_a_double_does_not_hold_exactly_is_unclear() -> None:
    """C42"""
    assert await router_that(always({"block": (1 << 53) - 1})).latest_block() == (1 << 53) - 1
    with pytest.raises(RouterUnclear):
        await router_that(always({"block": 1 << 53})).latest_block()


async def test_the_largest_allowance_there_is_is_read() -> None:
    largest = (1 << 256) - 1
    assert await router_that(always({"allowance": str(largest)})).allowance(ADDRESS) == largest


async def test_ratings_keep_the_routers_order_and_its_kinds_of_numbers() -> None:
    rows = [
        {"ID": chain_id(0), "Bid": bid_row(number), "Score": score} for number, score in ((9, 12.5), (4, 3), (7, 0.1))
    ]
    ratings = await router_that(always({"bids": rows})).ratings(chain_id(1), most=2)
    assert [(bid.id, bid.score) for bid in ratings] == [(chain_id(9), 12.5), (chain_id(4), 3.0)]
    assert ratings[0].price_per_second == "10000000000000"
    assert ratings[0].created_at == "1748000000"
