"""A copy of the marketplace: models and whether anybody offers them. Read in the background, served from memory."""

import asyncio
import hashlib
import random
import time
from bisect import insort
from dataclasses import dataclass

import orjson
from morpheus_common.contracts.sessions import Catalogue, CatalogueModel, ModelType
from morpheus_common.errors import ApiError
from morpheus_common.logs import get_logger

from morpheus_sessions.router import Bid, Provider, Router, RouterRefused, RouterUnclear, RouterUnreachable
from morpheus_sessions.stake import most_tagged, quote

log = get_logger(__name__)

BIDS_AT_ONCE = 8
ATTESTED_TAG = "tee"
"""Tags a model whose providers prove what hardware they run on (proxy-router contract, section 2.4)."""
FIRST_RETRY_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Copy:
    """What was read, and when (monotonic seconds). `offers` are the prices (wei a second) of a model's active bids, cheapest
    first; `supply` and `budget` the two figures of the stake formula, in wei.
    """

    version: str
    models: dict[str, CatalogueModel]
    providers: dict[str, Provider]
    offers: dict[str, list[int]]
    supply: int
    budget: int
    read_at: float


class CatalogueCopy:
    """Keeps the copy of one worker fresh. The version is a digest, so that all workers name the same content alike."""

    def __init__(self, router: Router, *, seconds: float) -> None:
        self._router = router
        self._seconds = seconds
        self._copy: Copy | None = None
        self._known = asyncio.Event()

    @property
    def copy(self) -> Copy:
        """The last good copy. `service_unavailable` while there was none yet."""
        if self._copy is None:
            raise ApiError("service_unavailable", retry_after=2)
        return self._copy

    def answer(self, have_version: str | None) -> Catalogue:
        """Return the catalogue, without its models if the asker has this version."""
        copy = self.copy
        models = None if have_version == copy.version else list(copy.models.values())
        return Catalogue(version=copy.version, age=time.monotonic() - copy.read_at, models=models)

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
        offers = self.copy.offers.get(model_id)
        if not offers:
            raise ApiError("no_provider_available", retry_after=30, details={"reasons": []})
        return offers[0]

    def usual_price(self) -> int:
        """Return the price (wei a second) of a usual session: half of the models have a bid that is as cheap."""
        cheapest = sorted(offers[0] for offers in self.copy.offers.values() if offers)
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
            try:
                await self.refresh()
            except (RouterUnreachable, RouterRefused, RouterUnclear) as error:
                log.warning("catalogue not refreshed", router=self._router.name, problem=str(error)[:200])
            pause = FIRST_RETRY_SECONDS if self._copy is None else self._seconds * random.uniform(0.8, 1.2)  # noqa: S311 - jitter, not a secret
            await asyncio.sleep(pause)

    async def refresh(self) -> None:
        """Read models, providers and active bids once."""
        models = [model for model in await self._router.models() if not model.is_deleted]
        providers = await self._router.providers()
        gate = asyncio.Semaphore(BIDS_AT_ONCE)

        async def offered_by(address: str) -> list[Bid]:
            async with gate:
                return await self._router.active_bids_of(address)

        offered: dict[str, list[int]] = {}
        for bids in await asyncio.gather(*(offered_by(address) for address in providers)):
            for bid in bids:
                insort(offered.setdefault(bid.model_id, []), bid.price)
        supply, budget = await self._router.supply_and_budget()
        rows = {
            model.id: CatalogueModel(
                id=model.id,
                name=model.name,
                owner=model.owner,
                tags=list(model.tags),
                type=_model_type(model.type),
                created_at=model.created_at,
                has_bids=model.id in offered,
            )
            for model in sorted(models, key=lambda model: model.id)
        }
        content = orjson.dumps([row.model_dump(mode="json") for row in rows.values()])
        version = hashlib.sha256(content).hexdigest()[:32]
        if self._copy is None or self._copy.version != version:
            log.info("catalogue changed", models=len(rows), offered=len(offered))
        self._copy = Copy(version, rows, providers, offered, supply, budget, time.monotonic())
        self._known.set()


def is_attested(model: CatalogueModel) -> bool:
    """Tell whether a model promises attestation, which a session opened in two steps does not have."""
    return any(tag.lower() == ATTESTED_TAG for tag in model.tags)


def _model_type(text: str) -> ModelType:
    try:
        return ModelType(text)
    except ValueError:
        return ModelType.UNKNOWN
