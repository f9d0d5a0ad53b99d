"""Reading events through a durable consumer: acknowledged when done, tried again with a pause, then set aside."""

import asyncio
import json
from collections.abc import Awaitable, Callable

from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.errors import Error as JetStreamError

from morpheus_common.bus.names import Header
from morpheus_common.bus.topology import Consumer
from morpheus_common.logs import get_logger
from morpheus_common.request_context import request_id

log = get_logger(__name__)

BATCH = 16
FETCH_SECONDS = 5.0
PAUSE_SECONDS = 2.0


async def read_events(
    jetstream: JetStreamContext, consumer: Consumer, handle: Callable[[Msg], Awaitable[None]]
) -> None:
    """Hand every event of a durable consumer to `handle`, until cancelled.

    An event that `handle` fails on comes again after a pause, up to the consumer's `max_deliver`; then it goes to
    `dlq.<subject>` with the reason. `handle` has to be repeatable: an event can come twice.
    """
    while True:
        try:
            subscription = await jetstream.pull_subscribe_bind(consumer=consumer.name, stream=consumer.stream)
            try:
                await _read(jetstream, consumer, subscription, handle)
            finally:
                # what the server said of an unanswered fetch would keep the connection from draining
                await subscription.unsubscribe()
        except (NatsError, JetStreamError) as error:
            log.warning("events wait", consumer=consumer.name, problem=type(error).__name__)
            await asyncio.sleep(PAUSE_SECONDS)


async def _read(
    jetstream: JetStreamContext,
    consumer: Consumer,
    subscription: JetStreamContext.PullSubscription,
    handle: Callable[[Msg], Awaitable[None]],
) -> None:
    while True:
        try:
            messages = await subscription.fetch(BATCH, timeout=FETCH_SECONDS)
        except TimeoutError:
            continue
        for message in messages:
            await _digest(jetstream, consumer, message, handle)


async def _digest(
    jetstream: JetStreamContext, consumer: Consumer, message: Msg, handle: Callable[[Msg], Awaitable[None]]
) -> None:
    token = request_id.set((message.headers or {}).get(Header.REQUEST_ID))
    try:
        await handle(message)
        await message.ack()
    except Exception as error:
        # the outermost edge of an event: it is tried again or set aside, the reader goes on
        deliveries = message.metadata.num_delivered or 1
        log.exception("event not digested", subject=message.subject, deliveries=deliveries)
        if deliveries < consumer.max_deliver:
            await message.nak(delay=PAUSE_SECONDS * 2 ** (deliveries - 1))
            return
        reason = json.dumps({"consumer": consumer.name, "reason": type(error).__name__, "deliveries": deliveries})
        headers = {key: value for key, value in (message.headers or {}).items() if key != Header.MESSAGE_ID}
        await jetstream.publish(f"dlq.{message.subject}", message.data, headers={**headers, Header.REASON: reason})
        await message.term()
    finally:
        request_id.reset(token)
