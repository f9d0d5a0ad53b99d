#!/usr/bin/env python3
"""Prints what happens in the gateway, as it happens: the life-cycle events of the JetStream stream EVENTS.

This is how an internal service follows the gateway. It stands alone: it needs Python 3.11 and `nats-py[nkeys]`, and
nothing of this repository. What it shows beside printing:

* It connects as the NATS user `subscriber`, which may read events and do nothing else, with an inbox of its own.
* Its consumer is ephemeral: the server forgets it, and the next run says anew where it wants to begin. If the consumer is
  lost in between (the server restarted, the connection broke), another is made that begins behind the last event seen.
* Delivery is at least once and may be out of order. Every change of an entity raises its version by one, which travels as
  `ce-sequence`: a version that is not higher than the last one seen is ignored, a version that skips one is a gap.
"""

import argparse
import asyncio
import json
import os
import shlex
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import nats
import nkeys
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import AuthorizationError
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

STREAM = "EVENTS"
SUBJECTS = "evt.>"
INBOX_PREFIX = "_INBOX_subscriber"
"""The only inbox the user `subscriber` may listen to."""

CONNECT_SECONDS = 5.0
FETCH_SECONDS = 5.0
"""How long a request for events stays open at the server; an event ends it at once."""
FETCH_EVENTS = 100
RETRY_SECONDS = 1.0
FORGOTTEN_AFTER_SECONDS = 60.0
"""The server removes a consumer that nobody has asked for so long: what a killed subscriber leaves behind."""
SHOWN_CHARACTERS = 36
"""Our ids have as many. Longer values (ids on chain have 66) are shown by their ends."""


class SubscriberError(Exception):
    """The subscriber cannot work; the text says why."""


class Order(Enum):
    """What a version says about the events before it."""

    EXPECTED = "expected"
    REPEAT = "repeat"
    GAP = "gap"


@dataclass
class LastVersions:
    """The last version seen of each entity. A real subscriber keeps it in the same transaction as what it does."""

    _seen: dict[str, int] = field(default_factory=dict)

    def note(self, entity: str, version: int) -> tuple[Order, int]:
        """Take note of an event; return how it follows, and the version that was the last one (0 if there was none).

        The first event of an entity is always expected: what came before it may be older than the stream.
        """
        last = self._seen.get(entity, 0)
        if version <= last:
            return Order.REPEAT, last
        self._seen[entity] = version
        return (Order.GAP if last and version > last + 1 else Order.EXPECTED), last


def shown(value: Any) -> str:
    """Return a value of a payload for a terminal: on one line, not too long, nothing that could steer the terminal.

    Of a list it is how long it is: an event of what prompts used has up to 500 of them.
    """
    if isinstance(value, list):
        return f"[{len(value)}]"
    text = value if isinstance(value, str) and value.isprintable() else json.dumps(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:10]}…{text[-4:]}"


def line(headers: dict[str, str], body: bytes, versions: LastVersions) -> str:
    """Return what is printed of an event: time, type, entity, version, the fields of its payload that say something."""
    kind, entity, version = headers["ce-type"], headers["ce-subject"], int(headers["ce-sequence"])
    payload: dict[str, Any] = json.loads(body)
    fields = [f"{name}={shown(value)}" for name, value in payload.items() if value not in (None, entity, "")]
    order, last = versions.note(f"{headers['ce-source']} {entity}", version)
    if order is Order.REPEAT:
        fields.append(f"[repeat: version {last} was seen already; ignored]")
    elif order is Order.GAP:
        fields.append(f"[gap: the last version seen was {last}]")
    return f"{headers['ce-time']}  {kind:<36} {entity}  #{version}  {' '.join(fields)}".rstrip()


async def connect(url: str, seed: str) -> Client:
    """Return a connection that comes back by itself whenever the bus does.

    Raises:
        SubscriberError: the seed is none, there is no bus at `url`, or it does not know the user.
    """
    try:
        nkeys.from_seed(seed.encode()).wipe()
    except (nkeys.NkeysError, ValueError) as error:
        raise SubscriberError(
            "NATS_SEED is not the seed of an NKey user (58 characters that begin with SU)."
        ) from error
    problems: list[Exception] = []
    ready = asyncio.Event()

    async def problem(error: Exception) -> None:
        problems.append(error)
        if ready.is_set():
            print(f"bus: {error or type(error).__name__}", file=sys.stderr)

    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            connection = await nats.connect(
                url.split(","),
                name="examples/subscriber.py",
                nkeys_seed_str=seed,
                inbox_prefix=INBOX_PREFIX,
                max_reconnect_attempts=-1,
                error_cb=problem,
            )
    except (NatsError, OSError, TimeoutError) as error:
        if any(isinstance(cause, AuthorizationError) or "authorization" in str(cause).lower() for cause in problems):
            raise SubscriberError(f"The bus at {url} does not know this seed of a user.") from error
        cause = problems[-1] if problems else error
        raise SubscriberError(f"There is no bus at {url}: {str(cause) or type(cause).__name__}.") from error
    ready.set()
    return connection


async def events(jetstream: JetStreamContext, begin: int) -> AsyncIterator[Msg]:
    """Yield the events of the stream from stream sequence `begin` on, for ever."""
    while True:
        consumer = ConsumerConfig(
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=begin,
            ack_policy=AckPolicy.NONE,  # nothing is stored here that an acknowledgement could protect
            inactive_threshold=FORGOTTEN_AFTER_SECONDS,
            mem_storage=True,
        )
        try:
            subscription = await jetstream.pull_subscribe(SUBJECTS, stream=STREAM, config=consumer)
            try:
                async for message in messages(subscription):
                    begin = message.metadata.sequence.stream + 1
                    yield message
            finally:
                await subscription.unsubscribe()
        except NatsError as error:
            print(f"bus: {error or type(error).__name__}; trying again from event {begin}", file=sys.stderr)
            await asyncio.sleep(RETRY_SECONDS)


async def messages(subscription: JetStreamContext.PullSubscription) -> AsyncIterator[Msg]:
    """Yield the messages of one consumer; end when one got lost on the way.

    Raises:
        NatsError: the server does not know the consumer any more.
    """
    expected = 1
    while True:
        try:
            fetched = await subscription.fetch(FETCH_EVENTS, timeout=FETCH_SECONDS)
        except NatsTimeoutError:
            await subscription.consumer_info()
            continue
        except TimeoutError:
            continue
        for message in fetched:
            if message.metadata.sequence.consumer != expected:
                return
            expected += 1
            yield message


async def follow(url: str, seed: str, *, since_all: bool) -> None:
    """Print events until cancelled."""
    connection = await connect(url, seed)
    try:
        jetstream = connection.jetstream()
        try:
            stream = await jetstream.stream_info(STREAM)
        except NotFoundError as error:
            raise SubscriberError(f"The bus has no stream {STREAM}; `morpheus apply` makes it.") from error
        except NatsError as error:
            raise SubscriberError(f"The bus does not let this user read {STREAM}: {error}") from error
        kept = stream.state.messages
        print(
            f"listening to {STREAM}: {f'{kept} events kept, then ' if since_all else ''}new ones as they come",
            file=sys.stderr,
        )
        versions = LastVersions()
        async for message in events(jetstream, 1 if since_all else stream.state.last_seq + 1):
            try:
                print(line(message.headers or {}, message.data, versions), flush=True)
            except (KeyError, ValueError) as error:
                print(f"not one of our events, on {message.subject}: {error!r}", file=sys.stderr)
    finally:
        await connection.close()


def address(data: Path | None) -> tuple[str, str]:
    """Return the bus's URL and the seed of the user `subscriber`.

    Raises:
        SubscriberError: neither the environment nor the development stack in `data` says both.
    """
    if data is None:
        url, seed = os.environ.get("NATS_URL"), os.environ.get("NATS_SEED")
        if url and seed:
            return url, seed
        raise SubscriberError("Set NATS_URL and NATS_SEED, or name the folder of a development stack with --data.")
    file = data / "stack.env"
    try:
        pairs = [entry.partition("=") for entry in shlex.split(file.read_text())]
    except OSError as error:
        raise SubscriberError(f"{file} cannot be read ({error.strerror}); has `morpheus up` run there?") from error
    values = {name: value for name, _, value in pairs}
    try:
        return values["NATS_URL"], values["NATS_SUBSCRIBER_SEED"]
    except KeyError as error:
        raise SubscriberError(f"{file} does not say {error.args[0]}.") from error


def arguments() -> argparse.Namespace:
    """Return the command's options."""
    parser = argparse.ArgumentParser(
        description="Prints the gateway's life-cycle events, one line each, as they come. Ctrl-C ends it.",
        epilog="Without --data, the environment says where the bus is: NATS_URL (nats://host:port, several separated by "
        "commas) and NATS_SEED (the NKey seed of the user `subscriber`; SU…).",
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="the folder of a development stack (`morpheus up` uses .data)"
    )
    parser.add_argument(
        "--since",
        choices=("all", "new"),
        default="new",
        help="all: what the stream has kept (7 days), then new events; new: only what happens from now on (default)",
    )
    return parser.parse_args()


async def run(url: str, seed: str, *, since_all: bool) -> None:
    """Follow the events until SIGINT or SIGTERM."""
    following = asyncio.ensure_future(follow(url, seed, since_all=since_all))
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, following.cancel)
    try:
        await following
    except asyncio.CancelledError:
        print("stopped", file=sys.stderr)


def main() -> int:
    """Run the command; return its exit status."""
    options = arguments()
    try:
        url, seed = address(options.data)
        asyncio.run(run(url, seed, since_all=options.since == "all"))
    except SubscriberError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
