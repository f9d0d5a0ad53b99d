"""The gateway's copy of the models on offer: names resolved, lists served from memory."""

import asyncio
import hashlib
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson
from morpheus_common.bus.rpc import RpcClient
from morpheus_common.contracts.sessions import CATALOGUE, Catalogue, CatalogueModel, CatalogueQuestion
from morpheus_common.errors import ApiError
from morpheus_common.ids import is_chain_id
from morpheus_common.logs import get_logger
from morpheus_common.model_names import MAX_NAME_LENGTH, normalise, slug_of

from morpheus_gateway.compression import packed
from morpheus_gateway.near_names import NearNames

log = get_logger(__name__)

REFRESH_SECONDS: Final = 5.0
FIRST_RETRY_SECONDS: Final = 0.5
MAX_SUGGESTIONS: Final = 5
ASKED_FOR_A_PART: Final = 30
"""Any worker may answer, and each has a version of its own for a while after the market changed: so often is one part asked for
until the worker answers that has it.
"""


@dataclass(frozen=True, slots=True)
class Listing:
    """What is served: the bytes and their entity tag. Lists are made where `Models` is, off the event loop."""

    body: bytes
    etag: str
    packed: bytes | None = None
    """The body as gzip has it, of lists that are worth it."""

    @classmethod
    def of(cls, content: dict[str, Any]) -> "Listing":
        """Serialise `content`; its tag is a digest of the bytes."""
        body = orjson.dumps(content)
        return cls(body, f'"{hashlib.sha256(body).hexdigest()[:32]}"')


class Models:
    """One version of the catalogue. To be made in a thread if it is large: 10,000 models take a fifth of a second."""

    def __init__(self, models: Iterable[CatalogueModel], withheld: Iterable[str] = ()) -> None:
        ordered = sorted(models, key=lambda model: (model.created_at, model.id))
        self._by_id = {model.id: model for model in ordered}
        self._by_name: dict[str, CatalogueModel] = {}
        self._by_slug: dict[str, CatalogueModel] = {}
        self._withheld = frozenset(withheld)
        for model in ordered:
            if model.holds_name:
                self._by_name.setdefault(normalise(model.name), model)
            if model.slug is not None:
                self._by_slug.setdefault(model.slug, model)
        self._near = NearNames(list(self._by_name))
        self.offered = _listing(self.openai_object(model) for model in ordered if model.has_bids)
        self.all = _listing(self.openai_object(model) for model in ordered)

    def __len__(self) -> int:
        """Return how many models there are."""
        return len(self._by_id)

    def with_id(self, model_id: str) -> CatalogueModel | None:
        """Return a model by its id on chain."""
        return self._by_id.get(model_id)

    def find(self, name: str, *, param: str = "model") -> CatalogueModel:
        """Resolve an exact id, then a name, then a slug. Raises `model_not_found` with near names, never guesses.

        `param`: where the caller named it.
        """
        model = self._by_id.get(name.lower()) if is_chain_id(name.lower()) else self._meant_by(name)
        if model is None:
            raise self._unknown(name, param)
        return model

    def _meant_by(self, name: str) -> CatalogueModel | None:
        if len(name) > MAX_NAME_LENGTH:
            return None
        compared = normalise(name)
        model = self._by_name.get(compared)
        # the name of a model that was deleted means no other, not even one whose short form it is
        if model is None and compared not in self._withheld:
            return self._by_slug.get(slug_of(name))
        return model

    def openai_object(self, model: CatalogueModel) -> dict[str, Any]:
        """Return a model as OpenAI's API shows one, with our fields beside."""
        return {
            "id": model.name if model.holds_name else model.id,
            "object": "model",
            "created": model.created_at,
            "owned_by": model.owner,
            "blockchainID": model.id,
            "tags": model.tags,
            "modelType": model.type,
        }

    def _unknown(self, name: str, param: str) -> ApiError:
        near: list[str] = []
        if len(name) <= MAX_NAME_LENGTH:
            near = [self._by_name[found].name for found in self._near.of(normalise(name), most=MAX_SUGGESTIONS)]
        return ApiError("model_not_found", param=param, details={"suggestions": near} if near else None)


def _listing(objects: Iterable[dict[str, Any]]) -> Listing:
    listing = Listing.of({"object": "list", "data": list(objects)})
    return replace(listing, packed=packed(listing.body))


class ModelCatalogue:
    """The current version, renewed in the background; the last good one while sessions or the router are away."""

    def __init__(self, rpc: RpcClient, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rpc = rpc
        self._clock = clock
        self._version: str | None = None
        self._models: Models | None = None
        self._confirmed_at = -math.inf
        self._reachable = True

    @property
    def loaded(self) -> bool:
        """Tell whether there is a copy at all."""
        return self._models is not None

    @property
    def models(self) -> Models:
        """The current version. Raises `service_unavailable` before the first copy."""
        if self._models is None:
            raise ApiError("service_unavailable", retry_after=1)
        return self._models

    @property
    def age(self) -> float:
        """Seconds since the router confirmed what is served."""
        return max(0.0, self._clock() - self._confirmed_at)

    async def keep_fresh(self) -> None:
        """Renew the copy for ever (a background job)."""
        while True:
            await self.renew()
            await asyncio.sleep(REFRESH_SECONDS if self.loaded else FIRST_RETRY_SECONDS)

    async def renew(self) -> None:
        """Ask once; keeps the old copy if there is no answer."""
        try:
            first = await self._rpc.call(CATALOGUE, CatalogueQuestion(have_version=self._version))
            read_at = self._clock() - first.age
            parts = None if first.models is None or self._is_older(read_at) else await self._parts(first)
        except ApiError as error:
            if self._reachable:
                log.warning("the catalogue is not to be had; serving the last copy", code=error.code)
            self._reachable = False
            return
        self._reachable = True
        if parts is not None:
            # prompts and streams do not wait for it
            self._models = await asyncio.to_thread(_put_together, parts)
            self._version = first.version
            log.info("catalogue renewed", models=len(self._models))
        if self._version == first.version:
            self._confirmed_at = max(self._confirmed_at, read_at)

    def _is_older(self, read_at: float) -> bool:
        """Tell whether another worker has read the market later, and we have what that one read."""
        return self._models is not None and read_at <= self._confirmed_at

    async def _parts(self, first: Catalogue) -> list[Catalogue] | None:
        """Return all parts of a version; None if the one worker that has it does not come to the word."""
        parts = [first]
        left = first.parts * ASKED_FOR_A_PART
        while len(parts) < first.parts:
            if not left:
                log.warning("a version of the catalogue was not to be had whole", parts=first.parts, got=len(parts))
                return None
            left -= 1
            question = CatalogueQuestion(part=len(parts), of_version=first.version)
            answer = await self._rpc.call(CATALOGUE, question)
            if answer.version == first.version and answer.models is not None:
                parts.append(answer)
        return parts


def _put_together(parts: Sequence[Catalogue]) -> Models:
    return Models(
        (model for part in parts for model in part.models or ()), (name for part in parts for name in part.withheld)
    )
