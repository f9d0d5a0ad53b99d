"""Which model a name means.

Names on chain are free text, not unique, and their models can be renamed: anybody can claim a popular one. A name means the
model that was the first to register it, for as long as that is there; then for thirty days none. Who holds a name is written down,
because the router lists no deleted models and does not tell when one was renamed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Protocol

from morpheus_common.logs import get_logger
from morpheus_common.model_names import is_odd, normalise, slug_of
from morpheus_common.store.mongo import Database
from pymongo import DeleteOne, UpdateOne

from morpheus_sessions.documents import NameDocument
from morpheus_sessions.router import ChainModel

log = get_logger(__name__)

MAX_WITHHELD: Final = 10_000
"""Names of models that are gone which are remembered. Those that were held for the shortest time are forgotten first: nobody
gets an old one forgotten by registering and deleting many.
"""
WRITTEN_AT_ONCE: Final = 500
"""Records in a message to the database; reading and writing so many takes a few milliseconds of the event loop."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Whose name it is. `registered_at` in Unix seconds; `gone_at`: since when it is no more."""

    model_id: str
    registered_at: int
    gone_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Changes:
    """What has to be written down: names that get a holder, names whose holder is gone, and those whose holder is back."""

    taken: Mapping[str, Holder] = field(default_factory=dict)
    gone: Mapping[str, Holder] = field(default_factory=dict)
    back: Mapping[str, Holder] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Tell whether there is anything."""
        return bool(self.taken or self.gone or self.back)


@dataclass(frozen=True, slots=True)
class Naming:
    """`holders`: models that are meant by their names. `slugs`: short forms of names, by model. `withheld`: names that mean
    no model now, in order.
    """

    holders: frozenset[str]
    slugs: Mapping[str, str]
    withheld: Sequence[str]


def claims_of(models: Iterable[ChainModel]) -> dict[str, list[ChainModel]]:
    """Return by its name who claims it, the first that was registered first. Odd names cannot be claimed."""
    claims: dict[str, list[ChainModel]] = {}
    for model in sorted(models, key=lambda model: (model.created_at, model.id)):
        if not is_odd(model.name):
            claims.setdefault(normalise(model.name), []).append(model)
    return claims


def changes_of(claims: Mapping[str, Sequence[ChainModel]], known: Mapping[str, Holder]) -> Changes:
    """Return what has to be written down of a reading. Who holds a name keeps it against everybody that comes later,
    however early registered: another can only have been renamed.
    """
    taken, gone, back = {}, {}, {}
    for name, claimants in claims.items():
        holder = known.get(name)
        if holder is None:
            taken[name] = Holder(claimants[0].id, claimants[0].created_at)
        elif holder.gone_at is not None and any(model.id == holder.model_id for model in claimants):
            back[name] = holder
    for name, holder in known.items():
        is_there = any(model.id == holder.model_id for model in claims.get(name, ()))
        if holder.gone_at is None and not is_there:
            gone[name] = holder
    return Changes(taken, gone, back)


def naming_of(
    claims: Mapping[str, Sequence[ChainModel]], known: Mapping[str, Holder], pinned: Mapping[str, str]
) -> Naming:
    """Return which names mean which models. `pinned`: the operator's word, model ids by name."""
    pinned = {normalise(name): model_id for name, model_id in pinned.items()}
    means = {
        name: pinned.get(name) or known[name].model_id
        for name in claims.keys() | pinned.keys()
        if name in known or name in pinned
    }
    held: dict[str, ChainModel] = {}
    for name, model_id in means.items():
        model = next((model for model in claims.get(name, ()) if model.id == model_id), None)
        if model is not None:
            held[name] = model
    # a slug belongs to whose name was there first too, and to nobody while that is gone
    first: dict[str, tuple[bool, int, str]] = {}
    owner: dict[str, str | None] = {}
    for name in known.keys() | means.keys():
        slug = slug_of(name)
        model, holder = held.get(name), known.get(name)
        since = model.created_at if model is not None else holder.registered_at if holder is not None else 0
        order = (name not in pinned, since, name)
        if slug and (slug not in first or order < first[slug]):
            first[slug] = order
            owner[slug] = None if model is None else model.id
    slugs = {model_id: slug for slug, model_id in sorted(owner.items()) if model_id is not None}
    withheld = sorted(name for name in known.keys() | means.keys() if name not in held)
    return Naming(frozenset(model.id for model in held.values()), slugs, withheld)


class NameBook(Protocol):
    """Where it is written down who holds which name."""

    async def read(self) -> dict[str, Holder]:
        """Return all that is known, by name."""

    async def write(self, changes: Changes) -> None:
        """Write changes down; what another worker wrote first stays."""


class StoredNames:
    """The book that all workers share. Times are the database's."""

    def __init__(self, database: Database) -> None:
        self._names = database.get_collection(NameDocument.get_collection_name())

    async def read(self) -> dict[str, Holder]:
        """Return all that is known. Forgets what is too much of it."""
        found: dict[str, Holder] = {}
        cursor = self._names.find({}, batch_size=WRITTEN_AT_ONCE)
        async for row in cursor:
            found[row["_id"]] = Holder(row["model_id"], row["registered_at"], row["gone_at"])
        gone = [
            (name, holder.gone_at.timestamp() - holder.registered_at)
            for name, holder in found.items()
            if holder.gone_at
        ]
        spare = sorted(gone, key=lambda pair: -pair[1])[MAX_WITHHELD:]
        if spare:
            log.warning(
                "more names are withheld than are remembered; those held shortest are forgotten", names=len(spare)
            )
            await self._bulk([DeleteOne({"_id": name, "gone_at": {"$ne": None}}) for name, _ in spare])
        for name, _ in spare:
            del found[name]
        return found

    async def write(self, changes: Changes) -> None:
        """Write changes down; what another worker wrote first stays."""
        taken = [
            UpdateOne(
                {"_id": name},
                {"$setOnInsert": {"model_id": holder.model_id, "registered_at": holder.registered_at, "gone_at": None}},
                upsert=True,
            )
            for name, holder in changes.taken.items()
        ]
        gone = [
            UpdateOne({"_id": name, "model_id": holder.model_id, "gone_at": None}, [{"$set": {"gone_at": "$$NOW"}}])
            for name, holder in changes.gone.items()
        ]
        back = [
            UpdateOne({"_id": name, "model_id": holder.model_id}, {"$set": {"gone_at": None}})
            for name, holder in changes.back.items()
        ]
        await self._bulk([*taken, *gone, *back])

    async def _bulk(self, operations: Sequence[Any]) -> None:
        for start in range(0, len(operations), WRITTEN_AT_ONCE):
            await self._names.bulk_write(operations[start : start + WRITTEN_AT_ONCE], ordered=False)
