"""How a worker service runs: one event loop, signals, draining, background tasks that must not die unseen."""

import asyncio
import gc
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, Final

import uvloop
from faststream.nats import NatsBroker
from faststream.nats.subscriber.usecases.core_subscriber import ConcurrentCoreSubscriber
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from morpheus_common.bus.connection import CLOSE_SECONDS, abort, round_trip
from morpheus_common.logs import configure_logs, get_logger
from morpheus_common.metrics import show
from morpheus_common.private_port import private_port
from morpheus_common.settings import CommonSettings
from morpheus_common.standing import Standing
from morpheus_common.steps import SocketProbe, install
from morpheus_common.tracing import traces_exported

log = get_logger(__name__)

CANCEL_AGAIN_SECONDS = 3.0
"""Longer than what a job still has to put in order when it is cancelled."""


COLLECTED_EVERY: Final = (20_000, 10, 10)
"""New containers, net of those freed, after which Python looks for cycles; the second and third number as by default."""


def calm_garbage_collector() -> None:
    """Let the search for cycles pass over all that was made until now, and come less often; to be called once, when ready.

    By default it took a fifth of the gateway's CPU (measured): it began after each 700 objects, and again and again went
    through what importing had left, which lives as long as the process.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTED_EVERY)


@asynccontextmanager
async def background(*jobs: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run `jobs` beside the block and cancel them when it is left.

    A job that ends by itself is a bug: it is logged and ends the process, so that the operator's supervisor starts a
    sound one instead of leaving half a service behind.
    """
    tasks = [asyncio.create_task(job, name=getattr(job, "__qualname__", None)) for job in jobs]
    for task in tasks:
        task.add_done_callback(_end_process_if_dead)
    try:
        yield
    finally:
        for task in tasks:
            task.remove_done_callback(_end_process_if_dead)
        await cancel_all(tasks)


async def cancel_all(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks until each has ended, whatever it ends with.

    Once is not enough: up to Python 3.11 `wait_for`, which PyMongo writes with, swallows a cancellation that comes just
    as it is done (seen: one shutdown in fifty hung).
    """
    waiting = set(tasks)
    while waiting:
        for task in waiting:
            task.cancel()
        ended, waiting = await asyncio.wait(waiting, timeout=CANCEL_AGAIN_SECONDS)
        await asyncio.gather(*ended, return_exceptions=True)


def _end_process_if_dead(task: asyncio.Task[None]) -> None:
    if task.cancelled():
        return
    log.critical("background job ended; stopping the process", job=task.get_name(), exc_info=task.exception())
    signal.raise_signal(signal.SIGTERM)


async def leave_queue_groups(broker: NatsBroker, *, seconds: float = 30.0) -> None:
    """Stop receiving, and let what has been received be handled and answered, for at most `seconds`.

    FastStream's own stop loses messages that were delivered to this process but not started (measured).
    """
    if not broker.connection.is_connected:
        return
    try:
        async with asyncio.timeout(seconds):
            subscribers: list[Any] = [s for s in broker.subscribers if _is_subscribed(s)]
            for subscriber in subscribers:
                # nats-py's drain does this too, but what it then waits for can come before the last message
                await broker.connection._send_unsubscribe(subscriber.subscription._id)
            await round_trip(broker.connection)
            await asyncio.gather(*(_finish(subscriber) for subscriber in subscribers))
    except (TimeoutError, NatsError) as error:
        log.warning("some questions may stay unanswered", problem=type(error).__name__)


def _is_subscribed(subscriber: Any) -> bool:
    return isinstance(getattr(subscriber, "subscription", None), Subscription)


async def _finish(subscriber: Any) -> None:
    await subscriber.subscription.drain()
    subscriber.subscription = None  # FastStream's stop would unsubscribe once more, which nats-py refuses
    if isinstance(subscriber, ConcurrentCoreSubscriber):
        # drained means here that all messages are in FastStream's own queue, for which it has no event
        idle = False
        while not idle:
            await asyncio.sleep(0.01)
            waiting = subscriber.receive_stream.statistics().current_buffer_used
            idle = not waiting and subscriber.limiter.value == subscriber.max_workers


async def stop_broker(broker: NatsBroker, *, seconds: float = 30.0) -> None:
    """Leave the queue groups, finish what was received, close the connection; also while the bus is away."""
    await leave_queue_groups(broker, seconds=seconds)
    connection = broker.connection
    problem = await _problem(broker.stop(), seconds=seconds + CLOSE_SECONDS)
    if problem is not None:
        log.warning("bus connection not closed in order", problem=problem)
        await _problem(connection.close(), seconds=2 * CLOSE_SECONDS)
        abort(connection)


async def _problem(work: Coroutine[Any, Any, None], *, seconds: float) -> str | None:
    """Return why the end of a connection was not in order. A task of its own, because nats-py swallows cancellations."""
    task = asyncio.create_task(work)
    try:
        await asyncio.wait({task}, timeout=seconds)
        if not task.done():
            return "TimeoutError"
        await task
    except (NatsError, OSError) as error:
        return type(error).__name__
    finally:
        task.cancel()
    return None


Start = Callable[[Standing], AbstractAsyncContextManager[Any]]
"""What runs a service while it is entered, and tells its standing what it needs."""


async def _run(start: Start, name: str, settings: CommonSettings) -> None:
    standing = Standing()
    show(standing)
    with private_port(settings.metrics_host, settings.metrics_port, standing):
        async with background(standing.keep()):
            await _serve(start, name, standing)


async def _serve(start: Start, name: str, standing: Standing) -> None:
    stop = asyncio.Event()
    ready = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, stop.set)

    standing.need("start", ready.is_set)
    standing.need("time", lambda: not stop.is_set())

    async def serve() -> None:
        async with start(standing):
            ready.set()
            calm_garbage_collector()
            log.info("ready", service=name)
            await stop.wait()
            log.info("draining", service=name)

    serving = asyncio.create_task(serve())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not ready.is_set():
        # told to go while it still waits for the database or the bus: there is nothing to drain
        serving.cancel()
    with suppress(asyncio.CancelledError):
        await serving
    log.info("stopped", service=name)


def run_service(name: str, settings: CommonSettings, start: Start) -> None:
    """Run a worker until SIGTERM or SIGINT: `start(standing)` is entered, and left when it is time to go."""
    configure_logs(name, settings.worker_id, settings.log_level)
    if settings.step_probe is not None:
        install(SocketProbe(settings.step_probe, settings.worker_id))
    with traces_exported(name, settings.worker_id):
        uvloop.run(_run(start, name, settings))


async def until_it_works(
    what: str, attempt: Callable[[], Awaitable[Any]], *, errors: tuple[type[Exception], ...], pause: float = 1.0
) -> Any:
    """Try again and again, one log line each time: at start, the order of services does not matter."""
    while True:
        try:
            return await attempt()
        except errors as error:
            log.warning("waiting", on=what, problem=str(error) or type(error).__name__)
            await asyncio.sleep(pause)
