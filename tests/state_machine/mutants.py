"""The product with a mistake in it, to see that the machine finds the mistake. No file is changed, and production code has
no switch for any of this: what a mistake replaces is replaced in the process of the test.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import morpheus_sessions.handshake
import morpheus_sessions.opening
import pytest
from morpheus_sessions.documents import OperationDocument, OperationState, WalletDocument
from morpheus_sessions.journal import Journal
from morpheus_sessions.reconcile import Records
from morpheus_sessions.stake import TAG_SPACE, tagged
from morpheus_sessions.turn import Turn

from tests.state_machine.house import House
from tests.state_machine.ledger import Fate
from tests.state_machine.router import Call, Fault, Trouble
from tests.state_machine.world import World

UNIQUE_ID: Final = "one_per_chain_session"
Plant = Callable[[pytest.MonkeyPatch, House], None]


@dataclass(frozen=True, slots=True)
class Mutant:
    """A mistake. `breaks`: the invariants by which it may be found; `examples`: within so many random ones it must.

    `order`: the events that show it, where random ones take minutes to come upon them.
    """

    name: str
    plant: Plant
    breaks: tuple[str, ...]
    examples: int = 60
    order: Callable[[World], Awaitable[None]] | None = None

    def __str__(self) -> str:
        return self.name


def _approval_not_stored(patch: pytest.MonkeyPatch, _: House) -> None:
    """It is written down that something is sent, and not what."""
    record = Journal.record_approval

    async def forgetting(self: Journal, operation: OperationDocument, *args: Any, **limits: Any) -> OperationDocument:
        stored = await record(self, operation, *args, **limits)
        await OperationDocument.get_pymongo_collection().update_one(
            {"_id": operation.id}, {"$unset": {"approval": 1, "approval_signature": 1}}
        )
        return stored

    patch.setattr(Journal, "record_approval", forgetting)


def _not_stored_at_all(patch: pytest.MonkeyPatch, _: House) -> None:
    """Nothing is written down before it is sent; the rest stands in memory."""

    async def keeping_in_memory(
        _: Journal, operation: OperationDocument, bid: Any, approval: Any, stake: int, block: int, **__: Any
    ) -> OperationDocument:
        sent = {"state": OperationState.SENT, "bid_id": bid.id, "provider": bid.provider, "stake": stake}
        sent |= {"approval": approval.data, "approval_signature": approval.signature, "sent_block": block}
        unsaved: OperationDocument = operation.model_copy(update=sent)
        return unsaved

    patch.setattr(Journal, "record_approval", keeping_in_memory)


def _ids_not_unique(patch: pytest.MonkeyPatch, stage: House) -> None:
    """Whoever finds a session adopts it: no index forbids it, and tags repeat, so that two can find it."""
    stage.run(stage.database.get_collection("sessions").drop_index(UNIQUE_ID))
    patch.setattr(
        morpheus_sessions.handshake,
        "tagged",
        lambda stake, *, deployment, counter: tagged(stake, deployment=deployment, counter=counter % 2),
    )


def _unknown_is_failed(patch: pytest.MonkeyPatch, _: House) -> None:
    """An error is taken for proof that nothing happened."""
    patch.setattr(morpheus_sessions.opening, "nothing_was_sent", lambda *_: True)


def _no_tag(patch: pytest.MonkeyPatch, _: House) -> None:
    patch.setattr(morpheus_sessions.handshake, "tagged", lambda stake, **_: -(-stake // TAG_SPACE) * TAG_SPACE)


def _given_up_is_forgotten(patch: pytest.MonkeyPatch, _: House) -> None:
    look = Journal.sent_opens

    async def forgetting(self: Journal, wallet: str, **seen: Any) -> list[OperationDocument]:
        return [item for item in await look(self, wallet, **seen) if item.state is not OperationState.ABANDONED]

    patch.setattr(Journal, "sent_opens", forgetting)


def _ids_are_believed(patch: pytest.MonkeyPatch, _: House) -> None:
    """What an open sent is looked for only until it is settled: under another id it is nobody's."""
    patch.setattr(Records, "opened", lambda _: {})


async def _mined_after_it_was_given_up(world: World) -> None:
    await world.open(world.process(0), "k1", "small", None)
    await world.work(trouble=Trouble(Call.OPEN, Fault.LATE))
    # what nobody wants is given up and not sent again; what the chain holds is mined after that
    await world.close(world.process(0), "k1")
    await world.come_to_rest()


async def _mined_again_under_another_id(world: World) -> None:
    await world.open(world.process(0), "k1", "small", None)
    await world.work()
    world.ledger.undo(2, Fate.NEXT, others=1)
    await world.come_to_rest()


def _event_not_written(patch: pytest.MonkeyPatch, _: House) -> None:
    stage_event = Journal.stage

    async def forgetting(self: Journal, past_tense: str, *args: Any) -> None:
        if past_tense != "closed":
            await stage_event(self, past_tense, *args)

    patch.setattr(Journal, "stage", forgetting)


MUTANTS: Final = [
    Mutant("an approval is not stored before it is sent", _approval_not_stored, ("I3",)),
    Mutant("nothing is stored before an approval is sent", _not_stored_at_all, ("I3", "I2")),
    Mutant("the id on chain is not unique", _ids_not_unique, ("I9",), examples=200),
    Mutant("an unknown outcome is a failure", _unknown_is_failed, ("I2", "I3")),
    Mutant("stakes carry no tag", _no_tag, ("I10", "I2", "findings", "does not come to rest", "usable")),
    Mutant(
        "what was given up is not looked for",
        _given_up_is_forgotten,
        ("I2", "does not"),
        order=_mined_after_it_was_given_up,
    ),
    Mutant(
        "a settled open is not looked for under another id",
        _ids_are_believed,
        ("findings", "does not", "I2"),
        order=_mined_again_under_another_id,
    ),
    Mutant("an event is not written", _event_not_written, ("I5",)),
]
"""What the machine must find."""


def without_lease(patch: pytest.MonkeyPatch) -> None:
    """Every process takes the wallet for its own at any time, and waits for nobody's call; overlaps are still counted."""

    async def overlapping(self: Turn, operation_id: str) -> None:
        await WalletDocument.get_pymongo_collection().update_one(
            {"_id": self._router.wallet},
            {"$setOnInsert": {"router": self._router.name, "counter": 0, "overlaps": 0, "calling": None}},
            upsert=True,
        )
        await self._marked(operation_id, [{}])

    patch.setattr(Turn, "holds", property(lambda _: True))
    patch.setattr(Turn, "_mark", overlapping)
