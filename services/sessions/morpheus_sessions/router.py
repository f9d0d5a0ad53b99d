"""One proxy-router over HTTP: reads, the two steps of opening, closing. Prompts are in upstream.py.

Nothing here repeats a call: who may repeat what is decided where the journal is.
Source of every path, field and text: proxy-router contract, sections 0 to 2.
"""

import asyncio
import functools
import json
import math
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, ParamSpec, Self, TypeVar

import aiohttp
import httpx2
import orjson
from morpheus_common.contracts.rated_bids import RatedBid
from morpheus_common.ids import is_chain_id
from morpheus_common.logs import get_logger
from morpheus_common.model_names import MAX_NAME_LENGTH
from morpheus_common.request_context import request_id
from morpheus_common.tracing import CLIENT, NO_SPAN, Span, Value, current_span, span

from morpheus_sessions.metrics import FAILED_CALLS, ROUTER_SECONDS
from morpheus_sessions.router_calls import READ_FROM_CHAIN, call_of
from morpheus_sessions.settings import RouterSettings

log = get_logger(__name__)

PAGE: Final = 100
LARGEST_PAGE: Final = 255
"""As many rows as can be asked for at once: the number is one byte (proxy-router contract, section 0)."""
MAX_ROWS: Final = 100_000
"""So many models, providers or bids of one provider are read; the oldest come first."""
ANSWER_BYTES: Final = 4 * 1024 * 1024
"""A longer answer is read no further. One as long is parsed in 40 ms (measured), in which nothing else runs."""
MAX_TAGS: Final = 32
MAX_TAG_LENGTH: Final = 64
MAX_ENDPOINT_LENGTH: Final = 300
"""A host's name has 253 characters at most, a port five."""
READ_BYTES: Final = 32 * 1024
"""Twice this of an answer may wait in a connection until it is read; then the router is made to wait."""
CONNECT_SECONDS: Final = 3.0
IDLE_CONNECTION_SECONDS: Final = 30.0
PROBE_SECONDS: Final = 5.0
"""A router under load may take seconds to say who it is."""
ZERO_ADDRESS: Final = "0x" + "0" * 40
ALREADY_CLOSED: Final = "SessionAlreadyClosed"
SESSION_NOT_FOUND: Final = "session not found"
CREDENTIALS_REFUSED: Final = (401, 403)


class RouterUnreachable(Exception):
    """No connection was made: the router certainly did nothing."""


class RouterRefused(Exception):
    """The router answered with an error. `text` is its own wording; for logs and matching, not for callers."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text[:300]}")
        self.status = status
        self.text = text


class RouterUnclear(Exception):
    """The call went out and no usable answer came back: it may or may not have been done."""


class RouterTimedOut(RouterUnclear):
    """The same, because none came in time."""


class RouterTooLong(RouterUnclear):
    """The answer is longer than `ANSWER_BYTES`; what was asked is done or not, as with any that is not read."""


ROUTER_ERRORS: Final = (RouterUnreachable, RouterRefused, RouterUnclear)
"""Everything a call to a router can end with but its answer."""


@dataclass(frozen=True, slots=True)
class Bid:
    """A provider's offer for a model; `price` in wei a second."""

    id: str
    provider: str
    model_id: str
    price: int


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider and where it listens (`host:port`)."""

    address: str
    endpoint: str


@dataclass(frozen=True, slots=True)
class ChainModel:
    """A model on chain; `created_at` in Unix seconds."""

    id: str
    name: str
    owner: str
    tags: tuple[str, ...]
    type: str
    created_at: int
    is_deleted: bool


@dataclass(frozen=True, slots=True)
class ChainSession:
    """A session as the chain has it. Times in Unix seconds, `stake` in wei; open while `closed_at` is 0."""

    id: str
    user: str
    provider: str
    model_id: str
    bid_id: str
    stake: int
    price: int
    opened_at: int
    ends_at: int
    closed_at: int

    @property
    def is_open(self) -> bool:
        """Tell whether the stake is still in it."""
        return self.closed_at == 0


@dataclass(frozen=True, slots=True)
class Approval:
    """A provider's word that it takes one session. Opens at most one, ever. Money-bearing: never logged."""

    data: str
    signature: str

    def is_for(self, bid_id: str) -> bool:
        """Tell whether it opens a session at this bid: the first of its four words (proxy-router contract, section 2.6b)."""
        return self.data.lower().removeprefix("0x")[:64] == bid_id.lower().removeprefix("0x")

    def __repr__(self) -> str:
        """Show nothing of it."""
        return "Approval(…)"


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose a router is: its wallet, its chain, and the contract that takes the stakes (addresses in lower case)."""

    wallet: str
    chain: int
    diamond: str


class _Timer:
    """Measures a call to a router, the block, and counts how it failed."""

    def __init__(self, router: str, path: str) -> None:
        self._router = router
        self._call = call_of(path)

    def __enter__(self) -> Self:
        self._started_at = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ROUTER_SECONDS.labels(self._router, self._call).observe(time.monotonic() - self._started_at)
        # whoever is cancelled, or finds that a session is not there, has found no fault with the router
        if isinstance(error, ROUTER_ERRORS) and not (
            isinstance(error, RouterRefused) and SESSION_NOT_FOUND in error.text
        ):
            FAILED_CALLS.labels(self._router, self._kind_of(error)).inc()

    def _kind_of(self, error: BaseException) -> str:
        if isinstance(error, RouterUnreachable):
            return "unreachable"
        if isinstance(error, RouterTimedOut):
            return "timeout"
        if isinstance(error, RouterRefused):
            is_chain = self._call in READ_FROM_CHAIN and error.status not in CREDENTIALS_REFUSED
            return "chain" if is_chain else "refused"
        return "other"


P = ParamSpec("P")
T = TypeVar("T")


def _as_contract_says(read: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """Make an answer of another form than the contract's a `RouterUnclear`: a strange router must stop nothing."""

    @functools.wraps(read)
    async def reading(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await read(*args, **kwargs)
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            # arithmetic: JSON's 1e999 is an infinity, which no integer is
            log.warning("router answers in an unknown form", reading=read.__name__, problem=repr(error)[:200])
            raise RouterUnclear("an answer of another form") from None

    return reading


class Router:
    """A proxy-router. `wallet`, `chain` and `diamond` (the contract that takes the stakes) are known after `identify`."""

    def __init__(self, settings: RouterSettings, *, read_timeout: float, tells_traces: bool = False) -> None:
        self.name = settings.name
        self._tells_traces = tells_traces
        self.wallet = ""
        self.chain = 0
        self.diamond = ""
        self._read_timeout = read_timeout
        self._settings = settings
        self._prompts: aiohttp.ClientSession | None = None
        self.http = httpx2.AsyncClient(
            base_url=settings.url,
            auth=httpx2.BasicAuth(settings.user, settings.password.get_secret_value()),
            # a few compressed bytes could be gigabytes
            headers={"Accept-Encoding": "identity"},
            limits=httpx2.Limits(
                max_connections=None, max_keepalive_connections=64, keepalive_expiry=IDLE_CONNECTION_SECONDS
            ),
            timeout=httpx2.Timeout(read_timeout, connect=CONNECT_SECONDS),
            trust_env=False,
        )

    async def aclose(self) -> None:
        """Close all connections."""
        await self.http.aclose()
        if self._prompts is not None:
            await self._prompts.close()

    @property
    def prompts(self) -> aiohttp.ClientSession:
        """What prompts go through: aiohttp takes a quarter of the CPU that httpx2 takes (decision 0022).

        It has no time limits but that of connecting, follows no redirect, keeps no cookies, and sends nothing twice.
        """
        # made at first use: it belongs to the loop that runs
        if self._prompts is None:
            user, password = self._settings.user, self._settings.password.get_secret_value()
            self._prompts = aiohttp.ClientSession(
                base_url=f"{self._settings.url.rstrip('/')}/",
                # what it would add of its own is nobody's business, and no answer is to come compressed
                skip_auto_headers=("User-Agent", "Accept-Encoding"),
                headers={"Authorization": aiohttp.encode_basic_auth(user, password)},
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
                connector=aiohttp.TCPConnector(
                    limit=0, keepalive_timeout=IDLE_CONNECTION_SECONDS, ssl=httpx2.create_ssl_context(trust_env=False)
                ),
                read_bufsize=READ_BYTES,
            )
        return self._prompts

    # reading

    @_as_contract_says
    async def current_wallet(self) -> str:
        """Return the wallet the router has now. Needs our credentials."""
        return str((await self._get("/wallet", timeout=PROBE_SECONDS))["address"]).lower()

    @_as_contract_says
    async def who(self) -> Identity:
        """Return the router's wallet, chain and contract as they are now."""
        wallet = await self.current_wallet()
        config = await self._get("/config", timeout=PROBE_SECONDS)
        return Identity(
            wallet=wallet,
            chain=int(config["DerivedConfig"]["ChainID"]),
            diamond=str(config["Config"]["Marketplace"]["DiamondContractAddress"]).lower(),
        )

    def adopt(self, identity: Identity) -> None:
        """Work with this wallet from now on."""
        self.chain = identity.chain
        self.diamond = identity.diamond
        # last: whoever sees a wallet sees all of it
        self.wallet = identity.wallet

    async def identify(self) -> None:
        """Learn the router's wallet, chain and contract."""
        self.adopt(await self.who())

    @_as_contract_says
    async def balance(self) -> int:
        """Return the wallet's MOR in wei."""
        return _amount((await self._get("/blockchain/balance"))["mor"])

    @_as_contract_says
    async def funds(self) -> tuple[int, int]:
        """Return the wallet's MOR and its ETH for gas, both in wei."""
        answer = await self._get("/blockchain/balance")
        return _amount(answer["mor"]), _amount(answer["eth"])

    @_as_contract_says
    async def allowance(self, spender: str) -> int:
        """Return how much of the wallet's MOR a contract may take, in wei."""
        return _amount((await self._get("/blockchain/allowance", {"spender": spender}))["allowance"])

    @_as_contract_says
    async def latest_block(self) -> int:
        """Return the height of the node behind the router."""
        return _time_or_height((await self._get("/blockchain/latestBlock"))["block"])

    @_as_contract_says
    async def supply_and_budget(self) -> tuple[int, int]:
        """Return the two figures of the stake formula, in wei."""
        supply = _amount((await self._get("/blockchain/token/supply"))["supply"])
        budget = _amount((await self._get("/blockchain/sessions/budget"))["budget"])
        return supply, budget

    @_as_contract_says
    async def models(self) -> list[ChainModel]:
        """Return all models that are not deleted, the oldest first. Names and tags are cut to what is shown of them."""
        return [
            ChainModel(
                id=_chain_id(item["Id"]),
                # one character more: that it is too long must be seen
                name=_text(item["Name"], MAX_NAME_LENGTH + 1),
                owner=_address(item["Owner"]),
                tags=tuple(_text(tag, MAX_TAG_LENGTH) for tag in (item["Tags"] or ())[:MAX_TAGS]),
                type=str(item.get("ModelType") or "UNKNOWN"),
                created_at=_time_or_height(item["CreatedAt"]),
                is_deleted=bool(item["IsDeleted"]),
            )
            async for item in self._rows("/blockchain/models", "models")
        ]

    @_as_contract_says
    async def providers(self) -> dict[str, Provider]:
        """Return all providers by address (lower case)."""
        found = {}
        async for item in self._rows("/blockchain/providers", "providers"):
            endpoint = str(item["Endpoint"])
            if not item["IsDeleted"] and len(endpoint) <= MAX_ENDPOINT_LENGTH:
                address = _address(item["Address"])
                found[address] = Provider(address, endpoint)
        return found

    @_as_contract_says
    async def active_bids_of(self, provider: str) -> list[Bid]:
        """Return all active bids of a provider, page by page."""
        path = f"/blockchain/providers/{provider}/bids/active"
        return [_bid(item) async for item in self._rows(path, "bids", page=LARGEST_PAGE)]

    async def _rows(self, path: str, name: str, *, page: int = PAGE) -> AsyncIterator[Any]:
        """Return the rows of a list, the oldest first, page by page.

        Anybody can write texts of a hundred KB to the chain: a page that gets too long is asked for in smaller ones, and a row that
        is too long by itself is left out.
        """
        offset, limit = 0, page
        while offset < MAX_ROWS:
            try:
                rows = (await self._get(path, {"offset": offset, "limit": limit, "order": "ASC"}))[name]
            except RouterTooLong:
                if limit > 1:
                    limit //= 2
                    continue
                log.warning("a row of the router's is too long; left out", rows=name)
                offset += 1
            else:
                for row in rows:
                    yield row
                # fewer: the last page; more: a router that knows no pages has told everything
                if len(rows) != limit:
                    return
                offset += limit
            limit = min(page, 2 * limit)

    @_as_contract_says
    async def rated_bids(self, model_id: str) -> list[Bid]:
        """Return the active bids of a model, best first as the router rates them."""
        answer = await self._get(f"/blockchain/models/{model_id}/bids/rated")
        return [_bid(item["Bid"]) for item in answer["bids"]]

    @_as_contract_says
    async def ratings(self, model_id: str, *, most: int) -> list[RatedBid]:
        """Return the best `most` of the active bids of a model with all that the router says of them, best first."""
        answer = await self._get(f"/blockchain/models/{model_id}/bids/rated")
        return [
            RatedBid(
                # the outer ID is never filled
                id=_chain_id(item["Bid"]["Id"]),
                provider=_address(item["Bid"]["Provider"]),
                model_id=_chain_id(item["Bid"]["ModelAgentId"]),
                price_per_second=str(_amount(item["Bid"]["PricePerSecond"])),
                nonce=str(_amount(item["Bid"]["Nonce"])),
                created_at=str(_amount(item["Bid"]["CreatedAt"])),
                deleted_at=str(_amount(item["Bid"]["DeletedAt"])),
                score=_score(item["Score"]),
            )
            for item in answer["bids"][:most]
        ]

    @_as_contract_says
    async def bid(self, bid_id: str) -> Bid | None:
        """Return a bid that is not deleted. An unknown id answers 200 with a bid of zeros."""
        item = (await self._get(f"/blockchain/bids/{bid_id}"))["bid"]
        if str(item["Provider"]).lower() == ZERO_ADDRESS or int(item["DeletedAt"]) != 0:
            return None
        return _bid(item)

    @_as_contract_says
    async def session(self, session_id: str) -> ChainSession | None:
        """Return a session from the chain, None if the node does not know it (yet)."""
        try:
            return _session((await self._get(f"/blockchain/sessions/{session_id}"))["session"])
        except RouterRefused as error:
            if SESSION_NOT_FOUND in error.text:
                return None
            raise

    @_as_contract_says
    async def sessions_of_wallet(self, *, offset: int, limit: int = PAGE) -> list[ChainSession]:
        """Return a page of our wallet's sessions, newest first, closed ones included."""
        answer = await self._get(
            "/blockchain/sessions/user", {"user": self.wallet, "offset": offset, "limit": limit, "order": "DESC"}
        )
        return [_session(item) for item in answer["sessions"]]

    # acting

    async def initiate(self, *, provider: Provider, bid_id: str, stake: int, timeout: float) -> Approval:
        """Ask a provider to approve a session (step one). No money moves, repeatable. `timeout` in seconds."""
        answer = await self._post(
            "/proxy/sessions/initiate",
            {
                "user": self.wallet,
                "provider": provider.address,
                "spend": str(stake),
                "bidId": bid_id,
                "providerUrl": provider.endpoint,
            },
            timeout,
        )
        try:
            return Approval(str(answer["approval"]), str(answer["approvalSig"]))
        except (KeyError, TypeError):
            raise RouterUnclear("no approval in the answer") from None

    async def open(self, approval: Approval, stake: int, *, timeout: float) -> str:
        """Open the session on chain (step two) and return its id. Locks `stake` wei."""
        body = {
            "approval": approval.data,
            "approvalSig": approval.signature,
            "stake": str(stake),
            "directPayment": False,
        }
        answer = await self._post("/blockchain/sessions", body, timeout)
        try:
            return str(answer["sessionID"]).lower()
        except (KeyError, TypeError):
            raise RouterUnclear("no session id in the answer") from None

    async def approve(self, spender: str, amount: int, *, timeout: float) -> str:
        """Set (not add to) what a contract may take of the wallet's MOR to `amount` wei; return the transaction."""
        answer = await self._post(f"/blockchain/approve?spender={spender}&amount={amount}", None, timeout)
        try:
            return str(answer["tx"])
        except (KeyError, TypeError):
            raise RouterUnclear("no transaction in the answer") from None

    async def close(self, session_id: str, *, timeout: float) -> str | None:
        """Close the session on chain and return the transaction, if the router names it.

        Closed before: raises `RouterRefused` with `ALREADY_CLOSED` in its text.
        """
        answer = await self._post(f"/blockchain/sessions/{session_id}/close", None, timeout)
        # it is closed, whatever the answer looks like
        return str(answer["tx"]) if isinstance(answer, dict) and "tx" in answer else None

    async def _get(self, path: str, params: dict[str, Any] | None = None, *, timeout: float | None = None) -> Any:
        seconds = timeout or self._read_timeout
        with _Timer(self.name, path):
            try:
                async with asyncio.timeout(seconds):
                    return await self._exchange("GET", path, seconds, params=params)
            except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
                raise RouterUnreachable(type(error).__name__) from None
            except (httpx2.TimeoutException, TimeoutError) as error:
                raise RouterTimedOut(type(error).__name__) from None
            except httpx2.HTTPError as error:
                raise RouterUnclear(type(error).__name__) from None

    async def _post(self, path: str, body: Any, timeout: float) -> Any:
        with _Timer(self.name, path):
            try:
                return await self._exchange("POST", path, timeout, json=body)
            except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout) as error:
                raise RouterUnreachable(type(error).__name__) from None
            except httpx2.TimeoutException as error:
                raise RouterTimedOut(type(error).__name__) from None
            except httpx2.HTTPError as error:
                raise RouterUnclear(type(error).__name__) from None

    async def _exchange(self, method: str, path: str, timeout: float, **more: Any) -> Any:
        limit = httpx2.Timeout(timeout, connect=CONNECT_SECONDS)
        with self.call(method, path) as call:
            async with self.http.stream(
                method, path, headers=self.trace_headers(call), timeout=limit, **more
            ) as answer:
                note_status(call, answer.status_code)
                body = bytearray()
                async for piece in answer.aiter_raw():
                    body += piece
                    if len(body) > ANSWER_BYTES:
                        raise RouterTooLong(f"an answer of more than {ANSWER_BYTES} bytes")
        return _read(answer.status_code, bytes(body))

    def call(self, method: str, path: str) -> Span:
        """Return the span of a call to this router. Ids in its path, and what stands behind it, are not told."""
        if not current_span().is_recorded:
            return NO_SPAN
        template = _IN_PATH.sub("/{id}", path.partition("?")[0])
        address = self.http.base_url
        attributes: dict[str, Value] = {
            "http.request.method": method,
            "url.template": template,
            "server.address": address.host,
            "server.port": address.port or _PORTS[address.scheme],
            "morpheus.router": self.name,
        }
        return span(f"{method} {template}", CLIENT, attributes)

    def trace_headers(self, call: Span) -> dict[str, str]:
        """Return the headers that tie a call to the request it is made for."""
        headers = {}
        if current := request_id.get():
            headers["X-Request-Id"] = current
        if self._tells_traces and (trace := call.traceparent):
            headers["traceparent"] = trace
        return headers


_IN_PATH = re.compile(r"/0x[0-9a-fA-F]+")
_PORTS = {"http": 80, "https": 443}


def note_status(call: Span, status: int) -> None:
    """Note what a router answered."""
    call.set("http.response.status_code", status)
    if status >= 400:
        call.fail(str(status))


def error_text(body: bytes) -> str:
    """Return the router's own words in an error body."""
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body[:2000].decode("utf-8", "replace")
    if isinstance(parsed, dict) and isinstance(parsed.get("error"), str):
        return str(parsed["error"])
    return body[:2000].decode("utf-8", "replace")


def _read(status: int, body: bytes) -> Any:
    if status != 200:
        raise RouterRefused(status, error_text(body))
    try:
        # whole numbers may be far beyond 64 bits: the standard parser keeps them exact
        return json.loads(body)
    except (ValueError, RecursionError):
        raise RouterUnclear("an answer that is not JSON, or nested too deep") from None


_ADDRESS = re.compile(r"0x[0-9a-f]{40}")


def _chain_id(value: Any) -> str:
    text = value.lower()
    if not is_chain_id(text):
        raise ValueError("no id on chain")
    return str(text)


def _address(value: Any) -> str:
    text = value.lower()
    if not _ADDRESS.fullmatch(text):
        raise ValueError("no address")
    return str(text)


def _amount(value: Any) -> int:
    """Read a number that the router writes as a string, or bare."""
    number = int(value)
    if not 0 <= number < 1 << 256:
        raise ValueError("no number of the chain's")
    return number


def _time_or_height(value: Any) -> int:
    """Read a number of seconds or of blocks: none is as high as a double is exact."""
    number = _amount(value)
    if number >= 1 << 53:
        raise ValueError("no time and no height")
    return number


def _score(value: Any) -> float:
    score = float(value)
    if not math.isfinite(score):
        raise ValueError("no score")
    return score


def _text(value: Any, most: int) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    # half of a surrogate pair cannot be written as UTF-8
    return value[:most].encode("utf-8", "replace").decode()


def _bid(item: dict[str, Any]) -> Bid:
    return Bid(
        id=_chain_id(item["Id"]),
        provider=_address(item["Provider"]),
        model_id=_chain_id(item["ModelAgentId"]),
        price=_amount(item["PricePerSecond"]),
    )


def _session(item: dict[str, Any]) -> ChainSession:
    return ChainSession(
        id=str(item["Id"]).lower(),
        user=str(item["User"]).lower(),
        provider=str(item["Provider"]).lower(),
        model_id=str(item["ModelAgentId"]).lower(),
        bid_id=str(item["BidID"]).lower(),
        stake=int(item["Stake"]),
        price=int(item["PricePerSecond"]),
        opened_at=int(item["OpenedAt"]),
        ends_at=int(item["EndsAt"]),
        closed_at=int(item["ClosedAt"]),
    )
