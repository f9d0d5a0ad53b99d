"""Reading events through a durable consumer: acknowledged when done, tried again with a pause, then set aside."""

import asyncio
import json
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.errors import Error as JetStreamError

from morpheus_common.bus.names import Header
from morpheus_common.bus.topology import Consumer, missing_topology
from morpheus_common.errors import ApiError
from morpheus_common.logs import get_logger
from morpheus_common.request_context import request_id
from morpheus_common.store.metrics import CONSUMER_PENDING, DEAD_LETTERS, EVENTS_READ, OUTCOMES
from morpheus_common.store.unavailable import database_is_away
from morpheus_common.tracing import CONSUMER, caused, current_span, event_attributes

log = get_logger(__name__)

BATCH = 16
FETCH_SECONDS = 5.0
PAUSE_SECONDS = 2.0
COUNTED_EVERY_SECONDS = 15.0
"""So often the server is asked how many events a consumer has still to handle."""
_MAX_DOUBLINGS = 4
_AWAY = frozenset({"service_unavailable", "service_timeout", "overloaded"})
_MAX_COUNTED = 10_000
"""Events whose failures are remembered; the others' count begins anew, which only means more tries."""


async def read_events(
    jetstream: JetStreamContext, consumer: Consumer, handle: Callable[[Msg], Awaitable[None]]
) -> None:
    """Hand every event of a durable consumer to `handle`, until cancelled.

    An event that `handle` fails on comes again after a pause; when it failed `max_deliver` times here, it goes to
    `dlq.<subject>` with the reason. While what `handle` needs is away, it comes again for ever. `handle` has to be
    repeatable: an event can come twice.
    """
    failures = _Failures()
    DEAD_LETTERS.labels(consumer.name)
    for outcome in OUTCOMES:
        # there before the first, so that its increase is seen
        EVENTS_READ.labels(consumer.name, outcome)
    while True:
        try:
            if missing := await missing_topology(jetstream, consumer.service):
                log.error("events wait for what is missing; run `morpheus apply`", missing=missing)
                _not_counted(consumer)
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            subscription = await jetstream.pull_subscribe_bind(consumer=consumer.name, stream=consumer.stream)
            try:
                await _read(jetstream, consumer, subscription, handle, failures)
            finally:
                # what the server said of an unanswered fetch would keep the connection from draining
                await subscription.unsubscribe()
        except (NatsError, JetStreamError) as error:
            log.warning("events wait", consumer=consumer.name, problem=type(error).__name__)
            _not_counted(consumer)
            await asyncio.sleep(PAUSE_SECONDS)


def _not_counted(consumer: Consumer) -> None:
    # an old figure would stand above those of workers that can count
    CONSUMER_PENDING.labels(consumer.name).set(math.nan)


class _Failures:
    """How often each event failed by its own fault, by its place in the stream."""

    def __init__(self) -> None:
        self._counts: OrderedDict[int, int] = OrderedDict()

    def add(self, sequence: int) -> int:
        """Count one more and return how many there were."""
        count = self._counts.pop(sequence, 0) + 1
        self._counts[sequence] = count
        if len(self._counts) > _MAX_COUNTED:
            self._counts.popitem(last=False)
        return count

    def forget(self, sequence: int) -> None:
        """The event is done with."""
        self._counts.pop(sequence, None)


def _needs_what_is_away(error: Exception) -> bool:
    if isinstance(error, ApiError):
        return error.code in _AWAY
    return isinstance(error, NatsError | JetStreamError) or database_is_away(error)


async def _read(
    jetstream: JetStreamContext,
    consumer: Consumer,
    subscription: JetStreamContext.PullSubscription,
    handle: Callable[[Msg], Awaitable[None]],
    failures: _Failures,
) -> None:
    counted_at = float("-inf")
    while True:
        if time.monotonic() - counted_at >= COUNTED_EVERY_SECONDS:
            counted_at = time.monotonic()
            left = await jetstream.consumer_info(consumer.stream, consumer.name)
            CONSUMER_PENDING.labels(consumer.name).set((left.num_pending or 0) + (left.num_ack_pending or 0))
        try:
            messages = await subscription.fetch(BATCH, timeout=FETCH_SECONDS)
        except TimeoutError:
            continue
        for message in messages:
            with caused(
                f"process {message.subject}",
                CONSUMER,
                (message.headers or {}).get(Header.TRACEPARENT),
                attributes=event_attributes("process", message.subject, consumer.name),
            ):
                await _digest(jetstream, consumer, message, handle, failures)


async def _digest(
    jetstream: JetStreamContext,
    consumer: Consumer,
    message: Msg,
    handle: Callable[[Msg], Awaitable[None]],
    failures: _Failures,
) -> None:
    sequence = message.metadata.sequence.stream
    token = request_id.set((message.headers or {}).get(Header.REQUEST_ID))
    try:
        await handle(message)
        await message.ack()
        failures.forget(sequence)
        EVENTS_READ.labels(consumer.name, "ok").inc()
    except Exception as error:
        # the outermost edge of an event: it is tried again or set aside, the reader goes on
        current_span().fail(error)
        deliveries = message.metadata.num_delivered or 1
        if _needs_what_is_away(error):
            EVENTS_READ.labels(consumer.name, "retry").inc()
            log.warning("event waits for what is away", subject=message.subject, problem=str(error))
            await message.nak(delay=PAUSE_SECONDS * 2 ** min(deliveries - 1, _MAX_DOUBLINGS))
            return
        failed = failures.add(sequence)
        log.exception("event not digested", subject=message.subject, deliveries=deliveries, failed=failed)
        if failed < consumer.max_deliver:
            EVENTS_READ.labels(consumer.name, "retry").inc()
            await message.nak(delay=PAUSE_SECONDS * 2 ** min(failed - 1, _MAX_DOUBLINGS))
            return
        reason = json.dumps({"consumer": consumer.name, "reason": type(error).__name__, "deliveries": deliveries})
        headers = {key: value for key, value in (message.headers or {}).items() if key != Header.MESSAGE_ID}
        await jetstream.publish(f"dlq.{message.subject}", message.data, headers={**headers, Header.REASON: reason})
        await message.term()
        failures.forget(sequence)
        EVENTS_READ.labels(consumer.name, "dead").inc()
        DEAD_LETTERS.labels(consumer.name).inc()
    finally:
        request_id.reset(token)
