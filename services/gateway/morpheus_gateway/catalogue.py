"""The gateway's copy of the models on offer: names resolved, lists served from memory."""

import asyncio
import difflib
import hashlib
import re
import time
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import orjson
from morpheus_common.bus.rpc import RpcClient
from morpheus_common.contracts.sessions import CATALOGUE, CatalogueModel, CatalogueQuestion
from morpheus_common.errors import ApiError
from morpheus_common.ids import is_chain_id
from morpheus_common.logs import get_logger

log = get_logger(__name__)

REFRESH_SECONDS = 5.0
FIRST_RETRY_SECONDS = 0.5
MAX_NAME_LENGTH = 128
MAX_SUGGESTIONS = 5
_RESERVED_NAMES = frozenset({"allmodels", "ratedbids"})
"""Routes under `/models/`: a model of that name could not be asked for."""


def normalise(name: str) -> str:
    """Return the form in which names are compared: NFKC, case folded."""
    return unicodedata.normalize("NFKC", name).casefold()


def slug_of(name: str) -> str:
    """Return the name as people would type it into a shell: letters and digits, joined by dashes."""
    return re.sub(r"[^a-z0-9]+", "-", normalise(name)).strip("-")


def _is_odd(name: str) -> bool:
    if not name.strip() or len(name) > MAX_NAME_LENGTH or name != name.strip():
        return True
    folded = normalise(name)
    if folded.startswith("0x") or folded in _RESERVED_NAMES:
        return True
    # control, format (invisible), surrogate, private use, unassigned; line and paragraph separators
    return any(unicodedata.category(char)[0] == "C" or unicodedata.category(char) in {"Zl", "Zp"} for char in name)


@dataclass(frozen=True, slots=True)
class Listing:
    """What is served: the bytes and their entity tag."""

    body: bytes
    etag: str

    @classmethod
    def of(cls, content: dict[str, Any]) -> "Listing":
        """Serialise `content`; its tag is a digest of the bytes."""
        body = orjson.dumps(content)
        return cls(body, f'"{hashlib.sha256(body).hexdigest()[:32]}"')


class Models:
    """One version of the catalogue."""

    def __init__(self, models: Iterable[CatalogueModel]) -> None:
        # a name belongs to whom registered it first: names on chain are free text, and popular ones get imitated
        ordered = sorted(models, key=lambda model: (model.created_at, model.id))
        self._by_id = {model.id: model for model in ordered}
        self._by_name: dict[str, CatalogueModel] = {}
        self._by_slug: dict[str, CatalogueModel] = {}
        self._shown: dict[str, str] = {}
        for model in ordered:
            name = normalise(model.name)
            if _is_odd(model.name) or name in self._by_name:
                self._shown[model.id] = model.id
                continue
            self._by_name[name] = model
            self._shown[model.id] = model.name
            if slug := slug_of(model.name):
                self._by_slug.setdefault(slug, model)
        self.offered = _listing(self.openai_object(model) for model in ordered if model.has_bids)
        self.all = _listing(self.openai_object(model) for model in ordered)

    def find(self, name: str, *, param: str = "model") -> CatalogueModel:
        """Resolve an exact id, then a name, then a slug. Raises `model_not_found` with near names, never guesses.

        `param`: where the caller named it.
        """
        if is_chain_id(name.lower()):
            model = self._by_id.get(name.lower())
        else:
            model = self._by_name.get(normalise(name)) or self._by_slug.get(slug_of(name))
        if model is None:
            raise self._unknown(name, param)
        return model

    def openai_object(self, model: CatalogueModel) -> dict[str, Any]:
        """Return a model as OpenAI's API shows one, with our fields beside."""
        return {
            "id": self._shown[model.id],
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
            matches = difflib.get_close_matches(normalise(name), self._by_name, n=MAX_SUGGESTIONS, cutoff=0.5)
            near = [self._by_name[match].name for match in matches]
        return ApiError("model_not_found", param=param, details={"suggestions": near} if near else None)


def _listing(objects: Iterable[dict[str, Any]]) -> Listing:
    return Listing.of({"object": "list", "data": list(objects)})


class ModelCatalogue:
    """The current version, renewed in the background; the last good one while sessions or the router are away."""

    def __init__(self, rpc: RpcClient, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rpc = rpc
        self._clock = clock
        self._version: str | None = None
        self._models: Models | None = None
        self._confirmed_at = 0.0
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
            answer = await self._rpc.call(CATALOGUE, CatalogueQuestion(have_version=self._version))
        except ApiError as error:
            if self._reachable:
                log.warning("the catalogue is not to be had; serving the last copy", code=error.code)
            self._reachable = False
            return
        self._reachable = True
        if answer.models is not None:
            self._models = Models(answer.models)
            self._version = answer.version
            log.info("catalogue renewed", models=len(answer.models))
        self._confirmed_at = self._clock() - answer.age
