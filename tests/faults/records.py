"""What the services wrote down: MongoDB and the event stream, read past every fault."""

from collections.abc import Iterable
from typing import Any

import nats
from morpheus_common.bus.names import Stream, User
from nats.aio.client import Client
from pymongo import AsyncMongoClient

from tests.faults.chain import ChainState
from tests.faults.invariants import ENDED, OPEN_ON_CHAIN, Event, Snapshot

STORES = (User.AUTH.value, User.SESSIONS.value, User.AUTOMATION.value)
Row = dict[str, Any]


class Records:
    """The databases and the stream of one stack."""

    def __init__(self, mongo: AsyncMongoClient[Row], observer_url: str) -> None:
        self._mongo = mongo
        self._url = observer_url
        self._bus: Client | None = None
        self._events: list[Event] = []
        self._read_to = 0

    async def aclose(self) -> None:
        if self._bus is not None:
            await self._bus.close()

    async def _all(self, collection: str, *, store: str = "sessions", **query: Any) -> list[Row]:
        return [row async for row in self._mongo[store][collection].find(query).sort("_id", 1)]

    async def operations(self, key_id: str) -> list[Row]:
        return await self._all("operations", key_id=key_id)

    async def sessions(self, key_id: str) -> list[Row]:
        return await self._all("sessions", key_id=key_id)

    async def key_of(self, subject: str) -> str | None:
        """The key that an operation or a session belongs to; None if there is neither."""
        for collection in ("operations", "sessions"):
            row = await self._mongo["sessions"][collection].find_one({"_id": subject}, {"key_id": 1})
            if row is not None:
                return str(row["key_id"])
        return None

    async def unpublished(self) -> int:
        """How many events wait to be published."""
        return sum([await self._mongo[store]["outbox"].count_documents({"published_at": None}) for store in STORES])

    async def events(self) -> list[Event]:
        """Everything in the stream so far, oldest first."""
        if self._bus is None:
            self._bus = await nats.connect(self._url)
        jetstream = self._bus.jetstream()
        last = (await jetstream.stream_info(Stream.EVENTS)).state.last_seq
        for sequence in range(self._read_to + 1, last + 1):
            message = await jetstream.get_msg(Stream.EVENTS, sequence)
            headers = message.headers or {}
            self._events.append(
                Event(headers["ce-id"], headers["ce-subject"], int(headers["ce-sequence"]), message.subject or "")
            )
        self._read_to = last
        return list(self._events)

    async def snapshot(
        self,
        chain: ChainState,
        *,
        deployment: int,
        foreign: Iterable[str],
        mor_at_start: int,
        overlapping_calls: int,
        asked: dict[str, int],
    ) -> Snapshot:
        """Everything the checker looks at, as it is now."""
        return Snapshot(
            sessions=await self._all("sessions"),
            operations=await self._all("operations"),
            guards=await self._all("key_guards"),
            findings=await self._all("findings"),
            outboxes={store: await self._all("outbox", store=store) for store in STORES},
            chain=chain.sessions,
            events=await self.events(),
            deployment=deployment,
            foreign=frozenset(foreign),
            mor_at_start=mor_at_start,
            mor=chain.mor,
            held=chain.held,
            most_prompts_at_once=chain.most_prompts_at_once,
            overlapping_calls=overlapping_calls,
            asked=asked,
        )


def unsettled(
    operations: Iterable[Row], sessions: Iterable[Row], chain: ChainState, *, since: int, revoked: bool
) -> str | None:
    """Say what of a key is still under way; None when all is at rest.

    `since`: how many sessions the chain had before the key's first.
    """
    for row in operations:
        if row["state"] not in ENDED:
            return f"{row['kind']} {row['_id']} is {row['state']}"
    linked = {}
    for row in sessions:
        if row["state"] in {"opening", "closing"}:
            return f"session {row['_id']} is {row['state']}"
        if revoked and row["state"] in OPEN_ON_CHAIN:
            return f"session {row['_id']} of a revoked key is {row['state']}"
        linked[row.get("chain_session")] = row["state"]
    for session in chain.sessions[since:]:
        state = linked.get(session.id)
        if session.is_open != (state in OPEN_ON_CHAIN):
            return f"chain session {session.id} is {'open' if session.is_open else 'closed'} and recorded as {state}"
    return None
