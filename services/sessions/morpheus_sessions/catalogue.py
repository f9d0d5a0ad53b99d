"""A copy of the marketplace: models, what their names mean, and whether anybody offers them. Read in the background, served from
memory.

A market of 10,000 models and 100,000 bids is read in some hundred calls. What is reckoned over all of it runs in a thread, so
that prompts wait for none of it.
"""

import asyncio
import hashlib
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import orjson
from morpheus_common.contracts.sessions import Catalogue, CatalogueModel, ModelType
from morpheus_common.errors import ApiError
from morpheus_common.logs import get_logger
from pymongo.errors import PyMongoError

from morpheus_sessions.names import Holder, NameBook, Naming, changes_of, claims_of, naming_of
from morpheus_sessions.router import ROUTER_ERRORS, ChainModel, Provider, Router
from morpheus_sessions.stake import most_tagged, quote

log = get_logger(__name__)

BIDS_AT_ONCE: Final = 8
READING_SHARE: Final = 0.1
"""A worker reads the market for at most this share of its time: every call is some questions to the chain, and how long they take
is how large the market is, or how busy the router.
"""
ATTESTED_TAG = "tee"
"""Tags a model whose providers prove what hardware they run on (proxy-router contract, section 2.4)."""
FIRST_RETRY_SECONDS = 0.5
PART_BYTES: Final = 256 * 1024
"""Of a part of the catalogue as JSON; a message on the bus can have 1 MiB."""
PART_ROWS: Final = 500
"""So many rows are written and read in a few milliseconds of the event loop."""


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of the catalogue that fits into one message."""

    models: Sequence[CatalogueModel]
    withheld: Sequence[str]


@dataclass(frozen=True, slots=True)
class Copy:
    """What was read, and when the reading ended (monotonic seconds). `cheapest` is the lowest price (wei a second) of a model's
    active bids; `supply` and `budget` the two figures of the stake formula, in wei.
    """

    version: str
    models: dict[str, CatalogueModel]
    parts: Sequence[Part]
    providers: dict[str, Provider]
    cheapest: dict[str, int]
    supply: int
    budget: int
    read_at: float


class CatalogueCopy:
    """Keeps the copy of one worker fresh. The version is a digest, so that all workers name the same content alike."""

    def __init__(
        self, router: Router, names: NameBook, *, seconds: float, pinned: Mapping[str, str] | None = None
    ) -> None:
        self._router = router
        self._names = names
        self._seconds = seconds
        self._pinned = pinned or {}
        self._copy: Copy | None = None
        self._former: Copy | None = None
        self._known = asyncio.Event()

    @property
    def copy(self) -> Copy:
        """The last good copy. `service_unavailable` while there was none yet."""
        if self._copy is None:
            raise ApiError("service_unavailable", retry_after=2)
        return self._copy

    def answer(self, have_version: str | None, part: int = 0, of_version: str | None = None) -> Catalogue:
        """Return a part of the catalogue; no models if the asker has this version, or this worker not that which is asked for."""
        current = self.copy
        # who has begun to fetch the one before gets the rest of it
        copy = next((one for one in (current, self._former) if one and of_version in {None, one.version}), None)
        if copy is None or have_version == copy.version or part >= len(copy.parts):
            return Catalogue(version=current.version, age=time.monotonic() - current.read_at, models=None)
        return Catalogue(
            version=copy.version,
            age=time.monotonic() - copy.read_at,
            models=list(copy.parts[part].models),
            withheld=list(copy.parts[part].withheld),
            parts=len(copy.parts),
        )

    def model(self, model_id: str) -> CatalogueModel:
        """Return a model. `model_not_found` if no such model is on chain."""
        found = self.copy.models.get(model_id)
        if found is None:
            raise ApiError("model_not_found", param="model")
        return found

    def type_of(self, model_id: str) -> ModelType:
        """Return the type of a session's model, `UNKNOWN` if no such model is on chain (any more)."""
        model = self.copy.models.get(model_id)
        return ModelType.UNKNOWN if model is None else model.type

    def least_price(self, model_id: str) -> int:
        """Return the price (wei a second) of the cheapest bid for a model. `no_provider_available` if there is none."""
        price = self.copy.cheapest.get(model_id)
        if price is None:
            raise ApiError("no_provider_available", retry_after=30, details={"reasons": []})
        return price

    def usual_price(self) -> int:
        """Return the price (wei a second) of a usual session: half of the models have a bid that is as cheap."""
        cheapest = sorted(self.copy.cheapest.values())
        return cheapest[len(cheapest) // 2] if cheapest else 0

    def stake(self, price: int, duration: int) -> int:
        """Return what a session of `duration` seconds at `price` wei a second takes at most, in wei.

        By the figures of the last reading; they change with the chain's day. `open_failed` if none can be worked out.
        """
        copy = self.copy
        try:
            cost = quote(price=price, duration=duration, supply=copy.supply, budget=copy.budget)
        except ValueError as error:
            log.error("no stake can be worked out", problem=str(error))
            raise ApiError("open_failed") from None
        return most_tagged(cost.stake)

    def stake_per_second(self, price: int) -> int:
        """Return what each second at `price` wei a second takes, in wei, rounded up. By the figures, and raises, as `stake`."""
        copy = self.copy
        if copy.budget <= 0:
            log.error("no stake can be worked out", problem="the chain's budget is zero")
            raise ApiError("open_failed")
        return -(-copy.supply * price // copy.budget)

    def provider(self, address: str) -> Provider | None:
        """Return a provider by its address."""
        return self.copy.providers.get(address)

    async def first_reading(self, *, within: float) -> None:
        """Wait for the first reading, at most `within` seconds: a worker that takes questions before it refuses them."""
        try:
            async with asyncio.timeout(within):
                await self._known.wait()
        except TimeoutError:
            log.warning("no catalogue yet; questions are answered without", router=self._router.name)

    async def run(self) -> None:
        """Refresh until cancelled; soon after a failure of the first reading, with jitter later."""
        while True:
            begun = time.monotonic()
            try:
                await self.refresh()
            except (*ROUTER_ERRORS, PyMongoError) as error:
                log.warning("catalogue not refreshed", router=self._router.name, problem=str(error)[:200])
            pause = pause_after(time.monotonic() - begun, self._seconds)
            pause = FIRST_RETRY_SECONDS if self._copy is None else pause * random.uniform(0.8, 1.2)  # noqa: S311 - jitter, not a secret
            await asyncio.sleep(pause)

    async def refresh(self) -> None:
        """Read models, providers and active bids once, and settle what names mean.

        Raises what the router or the database fail with; the last good copy stays.
        """
        models = [model for model in await self._router.models() if not model.is_deleted]
        providers = await self._router.providers()
        cheapest = await self._cheapest_of(providers)
        supply, budget = await self._router.supply_and_budget()
        known = await self._settle(models)
        version, rows, parts = await asyncio.to_thread(_written, models, cheapest.keys(), known, self._pinned)
        if self._copy is None or self._copy.version != version:
            log.info("catalogue changed", models=len(rows), offered=len(cheapest), parts=len(parts))
            self._former = self._copy
        self._copy = Copy(version, rows, parts, providers, cheapest, supply, budget, time.monotonic())
        self._known.set()

    async def _cheapest_of(self, providers: Iterable[str]) -> dict[str, int]:
        cheapest: dict[str, int] = {}
        waiting = iter(providers)

        async def read_on() -> None:
            for provider in waiting:
                for bid in await self._router.active_bids_of(provider):
                    cheapest[bid.model_id] = min(bid.price, cheapest.get(bid.model_id, bid.price))

        try:
            async with asyncio.TaskGroup() as readings:
                for _ in range(BIDS_AT_ONCE):
                    readings.create_task(read_on())
        except ExceptionGroup as problems:
            raise problems.exceptions[0] from None
        return cheapest

    async def _settle(self, models: Sequence[ChainModel]) -> dict[str, Holder]:
        """Write down who holds which name after this reading, and return it."""
        known = await self._names.read()
        changes = await asyncio.to_thread(lambda: changes_of(claims_of(models), known))
        if not changes:
            return known
        await self._names.write(changes)
        return await self._names.read()


def pause_after(reading: float, least: float) -> float:
    """Return the seconds until the next reading, after one that took `reading` seconds."""
    return max(least, reading * (1 - READING_SHARE) / READING_SHARE)


def _written(
    models: Sequence[ChainModel], offered: Iterable[str], known: Mapping[str, Holder], pinned: Mapping[str, str]
) -> tuple[str, dict[str, CatalogueModel], list[Part]]:
    """Return the version of the catalogue, its models by id, and its parts. To be called in a thread."""
    naming = naming_of(claims_of(models), known, pinned)
    with_bids = set(offered)
    rows = {
        model.id: _row(model, naming, has_bids=model.id in with_bids)
        for model in sorted(models, key=lambda model: model.id)
    }
    digest = hashlib.sha256()
    parts: list[Part] = []
    open_models: list[CatalogueModel] = []
    open_names: list[str] = []
    size = 0

    def close() -> None:
        nonlocal size
        parts.append(Part(tuple(open_models), tuple(open_names)))
        open_models.clear()
        open_names.clear()
        size = 0

    def room_for(content: bytes) -> None:
        nonlocal size
        digest.update(content)
        # outside ASCII two bytes may be written as an escape of six
        needed = len(content) * (1 if content.isascii() else 3)
        if (open_models or open_names) and (
            size + needed > PART_BYTES or len(open_models) + len(open_names) == PART_ROWS
        ):
            close()
        size += needed

    for row in rows.values():
        room_for(orjson.dumps(row.model_dump(mode="json")))
        open_models.append(row)
    for name in naming.withheld:
        room_for(orjson.dumps(name))
        open_names.append(name)
    close()
    return digest.hexdigest()[:32], rows, parts


def _row(model: ChainModel, naming: Naming, *, has_bids: bool) -> CatalogueModel:
    return CatalogueModel(
        id=model.id,
        name=model.name,
        owner=model.owner,
        tags=list(model.tags),
        type=_model_type(model.type),
        created_at=model.created_at,
        has_bids=has_bids,
        holds_name=model.id in naming.holders,
        slug=naming.slugs.get(model.id),
    )


def is_attested(model: CatalogueModel) -> bool:
    """Tell whether a model promises attestation, which a session opened in two steps does not have."""
    return any(tag.lower() == ATTESTED_TAG for tag in model.tags)


def _model_type(text: str) -> ModelType:
    try:
        return ModelType(text)
    except ValueError:
        return ModelType.UNKNOWN
