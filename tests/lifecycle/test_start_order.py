"""The order in which parts come up does not matter, and each process says on its private port what it still lacks."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx2
import pytest
from morpheus_common.bus.names import User
from morpheus_devstack.stack import SIMULATOR
from morpheus_devstack.waiting import poll

from tests.lifecycle.stack import PartStack, part_stack
from tests.versions.journey import Traveller

STORES = (User.AUTH, User.SESSIONS, User.AUTOMATION)
SERVICES = (*STORES, User.GATEWAY)
PATIENCE_SECONDS = 60.0
AT_ONCE_SECONDS = 10.0
"""For a process that has nothing to finish; it would otherwise wait for a server for ever."""


async def eventually(what: str, condition: Callable[[], Awaitable[bool]], told: Callable[[], object]) -> None:
    assert await poll(condition, seconds=PATIENCE_SECONDS, every=0.1), f"{what}, but: {told()}"


async def until_missing(stack: PartStack, service: str, expected: set[str], *, ready: bool = False) -> None:
    """Wait until a process names exactly these parts, and see that it lives meanwhile."""
    said: object = None

    async def names_them() -> bool:
        nonlocal said
        status, body = said = await stack.private(service, "/ready")
        live, _ = await stack.private(service, "/live")
        assert live in {0, 200}, f"{service} is not alive while it waits for {expected}"
        return live == 200 and status == (200 if ready else 503) and set(body["missing"]) == expected

    await eventually(f"{service} lacks {sorted(expected)}", names_them, lambda: said)


async def until_refusing(stack: PartStack, service: str) -> None:
    """Wait until a process that lives wants no traffic."""

    async def refuses() -> bool:
        ready, _ = await stack.private(service, "/ready")
        live, _ = await stack.private(service, "/live")
        return (ready, live) == (503, 200)

    await eventually(f"{service} is not ready", refuses, lambda: stack.parts[service].runs)


async def until_ready(stack: PartStack, *services: str) -> None:
    await asyncio.gather(*(until_missing(stack, service, set(), ready=True) for service in services))


@pytest.mark.parametrize("order", ["nats-mongo-router", "mongo-router-nats", "router-nats-mongo"])
async def test_services_that_came_first_say_what_they_lack_and_come_up_by_themselves(
    order: str, tmp_path: Path
) -> None:
    """C43. Each part is missing in turn; no process is started twice."""
    async with part_stack(tmp_path / "stack") as stack:
        for service in SERVICES:
            await stack.start_service(service, service)
        pids = {service: stack.parts[service].pid for service in SERVICES}
        lacking = {"start", "database", "apply", "bus"}
        for part in order.split("-"):
            await asyncio.gather(*(until_missing(stack, store, lacking) for store in STORES))
            await {"nats": stack.start_nats, "mongo": stack.start_mongo, "router": stack.start_router}[part]()
            lacking -= {"nats": {"bus"}, "mongo": {"database"}, "router": set()}[part]
        await asyncio.gather(*(until_missing(stack, store, lacking) for store in STORES))
        assert lacking == {"start", "apply"}
        status, body = await stack.private(User.GATEWAY, "/ready")
        assert (status, {User.AUTH, User.SESSIONS} <= set(body["missing"])) == (503, True)
        await stack.apply()
        await until_ready(stack, *SERVICES)
        await stack.until_serving(User.GATEWAY)
        async with httpx2.AsyncClient(base_url=stack.base_url(User.GATEWAY) + "/", timeout=60) as http:
            await Traveller(http).journey()
        assert {service: stack.parts[service].pid for service in SERVICES} == pids
        assert all(stack.parts[service].runs for service in SERVICES)


async def test_a_process_that_waits_goes_at_once_when_it_is_told_to(tmp_path: Path) -> None:
    async with part_stack(tmp_path / "stack") as stack:
        for service in SERVICES:
            await stack.start_service(service, service)
        await asyncio.gather(*(until_missing(stack, store, {"start", "database", "apply", "bus"}) for store in STORES))
        await until_refusing(stack, User.GATEWAY)
        began = time.monotonic()
        # `end` raises for a process that had to be killed, or ended otherwise than well
        await stack.end(*SERVICES)
        assert time.monotonic() - began < AT_ONCE_SECONDS
        # half way: the bus is there, the database is not
        await stack.start_nats()
        for service in STORES:
            await stack.start_service(service, service)
        await asyncio.gather(*(until_missing(stack, store, {"start", "database", "apply"}) for store in STORES))
        began = time.monotonic()
        await stack.end(*STORES)
        assert time.monotonic() - began < AT_ONCE_SECONDS


async def test_what_goes_away_is_named_and_comes_back_without_anybody_s_help(tmp_path: Path) -> None:
    """C43: losing a part flips readiness, never liveness."""
    async with part_stack(tmp_path / "stack") as stack:
        await stack.start_mongo()
        await stack.start_nats()
        await stack.start_router()
        await stack.apply()
        for service in SERVICES:
            await stack.start_service(service, service)
        await until_ready(stack, *SERVICES)

        await stack.end("nats-server")
        await asyncio.gather(*(until_missing(stack, store, {"bus"}) for store in STORES))
        await until_refusing(stack, User.GATEWAY)
        await stack.start_nats()
        await until_ready(stack, *SERVICES)

        await stack.end("mongod")
        await asyncio.gather(*(until_missing(stack, store, {"database"}) for store in STORES))
        await until_refusing(stack, User.GATEWAY)
        await stack.start_mongo()
        await until_ready(stack, *SERVICES)

        await stack.end(SIMULATOR, User.AUTOMATION)
        await until_missing(stack, User.SESSIONS, {"proxy_router"})
        # warm and manual sessions need neither
        await until_ready(stack, User.AUTH, User.GATEWAY)
        await stack.start_router()
        await stack.start_service(User.AUTOMATION, User.AUTOMATION)
        await until_ready(stack, *SERVICES)
        assert all(stack.parts[service].runs for service in SERVICES)
