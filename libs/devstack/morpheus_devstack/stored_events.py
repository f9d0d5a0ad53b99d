"""What the streams keep: events, and those that a reader could not digest, which are tried again from here."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Self

from morpheus_common.bus.names import Header, Stream
from morpheus_common.bus.rpc import RpcClient
from morpheus_common.bus.topology import CONSUMERS
from morpheus_common.contracts.events import DIGEST_EVENT, DigestEvent
from morpheus_common.errors import ApiError
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.js.api import RawStreamMsg
from nats.js.errors import Error as JetStreamError
from nats.js.errors import NotFoundError

from morpheus_devstack.errors import StackError
from morpheus_devstack.operator_bus import OpsSettings, connected, sentence

DEAD = "dlq."


@dataclass(frozen=True)
class StoredEvent:
    """An event as a stream keeps it. `consumer`, `reason` and `deliveries` say who could not digest it, why, how often."""

    sequence: int
    time: datetime
    subject: str
    entity: str
    version: str
    event_id: str
    payload: str
    consumer: str = ""
    reason: str = ""
    deliveries: int = 0

    @classmethod
    def of(cls, message: RawStreamMsg) -> Self:
        """Read a message of `EVENTS` or `DLQ`."""
        headers = message.headers or {}
        told = _told(headers.get(Header.REASON, ""))
        return cls(
            sequence=message.seq or 0,
            time=message.time or datetime.min.replace(tzinfo=UTC),
            subject=(message.subject or "").removeprefix(DEAD),
            entity=headers.get("ce-subject", ""),
            version=headers.get("ce-sequence", ""),
            event_id=headers.get("ce-id", ""),
            payload=(message.data or b"").decode(errors="replace"),
            consumer=str(told.get("consumer", "")),
            reason=str(told.get("reason", "")),
            deliveries=int(told.get("deliveries", 0)),
        )

    def row(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {**asdict(self), "time": self.time.isoformat(timespec="seconds")}


@dataclass(frozen=True)
class Redriven:
    """What became of an event that was tried again; `problem` is empty if it is done and gone from the DLQ."""

    event: StoredEvent
    problem: str


def _told(reason: str) -> dict[str, Any]:
    try:
        told = json.loads(reason)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


@asynccontextmanager
async def _streams(settings: OpsSettings) -> AsyncIterator[Client]:
    """Connect; what goes wrong with a stream is one sentence."""
    async with connected(settings, []) as connection:
        try:
            yield connection
        except (NotFoundError, NoRespondersError) as error:
            raise StackError("The bus has no streams: run `morpheus apply`.") from error
        except (NatsError, JetStreamError, TimeoutError) as error:
            raise StackError(f"The streams cannot be read: {str(error) or type(error).__name__}.") from error


async def _read(connection: Client, stream: str, subject: str, *, after: int = 0) -> AsyncIterator[StoredEvent]:
    """Every message of a stream under `subject`, in its order, as long as there are some."""
    jetstream = connection.jetstream()
    last = (await jetstream.stream_info(stream)).state.last_seq
    while after < last:
        try:
            message = await jetstream.get_msg(stream, seq=after + 1, subject=subject, next=True)
        except NotFoundError:
            return
        after = message.seq or last
        yield StoredEvent.of(message)


async def list_events(settings: OpsSettings, subject: str, since: datetime | None, limit: int) -> list[StoredEvent]:
    """Return the first `limit` events that came since then.

    Raises:
        StackError: the bus cannot be reached, or has no stream.
    """
    found = []
    async with _streams(settings) as connection:
        async for event in _read(connection, Stream.EVENTS, subject):
            if since is None or event.time >= since:
                found.append(event)
                if len(found) == limit:
                    break
    return found


async def list_dead_letters(settings: OpsSettings, limit: int) -> list[StoredEvent]:
    """Return the first `limit` events that were set aside.

    Raises:
        StackError: the bus cannot be reached, or has no stream.
    """
    found = []
    async with _streams(settings) as connection:
        async for event in _read(connection, Stream.DLQ, f"{DEAD}>"):
            found.append(event)
            if len(found) == limit:
                break
    return found


async def redrive(settings: OpsSettings, sequences: list[int]) -> list[Redriven]:
    """Hand events that were set aside to the service again that could not digest them; all of them if none are named.

    One that is digested leaves the DLQ. A service does what it has done already only once, so that whatever is cut off in
    the middle can be repeated.

    Raises:
        StackError: the bus cannot be reached, or has no stream.
    """
    done = []
    async with _streams(settings) as connection:
        rpc = RpcClient(connection)
        async for event in _read(connection, Stream.DLQ, f"{DEAD}>"):
            if not sequences or event.sequence in sequences:
                problem = await _digested(rpc, event)
                if not problem:
                    await _forget(connection, event.sequence)
                done.append(Redriven(event, problem))
    return done


async def _digested(rpc: RpcClient, event: StoredEvent) -> str:
    service = next((consumer.service for consumer in CONSUMERS if consumer.name == event.consumer), None)
    if service not in DIGEST_EVENT:
        return f"No service reads for the consumer {event.consumer or '(none is named)'}."
    try:
        await rpc.call(DIGEST_EVENT[service], DigestEvent(subject=event.subject, payload=event.payload))
    except ApiError as error:
        return sentence(error, [], str(service))
    return ""


async def _forget(connection: Client, sequence: int) -> None:
    try:
        await connection.jetstream().delete_msg(Stream.DLQ, sequence)
    except NotFoundError:
        # another operator did the same at the same time
        return
