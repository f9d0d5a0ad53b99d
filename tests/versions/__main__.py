"""The previous version's processes beside ours, on one bus and one database: `make versions`.

`previous.json` names the commit that is the previous version. `make previous COMMIT=…` makes another one it, at a release.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2
import nats
from morpheus_common.bus.names import Stream, User
from morpheus_devstack.waiting import poll
from pymongo import MongoClient
from rich.console import Console

from tests.lifecycle.stack import PartStack, part_stack
from tests.run_folder import add_folder, in_folder
from tests.versions.contract import PREVIOUS
from tests.versions.history import Earlier, HistoryError, earlier, full_hash
from tests.versions.journey import PATIENCE_SECONDS, Person, Traveller

STORES = (User.AUTH, User.SESSIONS, User.AUTOMATION)
AT_ONCE = 4
"""Users at each gateway in the mixed fleet: whom a question reaches is chance, so they are several."""
MISUNDERSTOOD = (
    "does not fit its contract",
    "unknown error code",
    "handler failed",
    "without a readable head",
    "event not digested",
    "no question, though",
    "background job ended",
)
"""What processes write that do not understand each other, whatever their users are told."""

console = Console(stderr=True)


class Fleet:
    """Processes of two versions."""

    def __init__(self, stack: PartStack, before: Earlier) -> None:
        self._stack = stack
        self._versions: Mapping[str, Mapping[str, str]] = {"ours": {}, "previous": before.environment}

    async def start(self, version: str, *services: User) -> list[str]:
        """Start a process of each service in a version; return their names."""
        names = [f"{service}-{version}" for service in services]
        for service, name in zip(services, names, strict=True):
            await self._stack.start_service(service, name, **self._versions[version])
        return names

    async def travel(self, gateway: str, people: list[Person], *, count: int = 1) -> list[Person]:
        """Let `people` come back and `count` new ones do all there is, at one gateway."""
        await self._stack.until_serving(gateway)
        async with httpx2.AsyncClient(base_url=self._stack.base_url(gateway) + "/", timeout=120) as http:
            traveller = Traveller(http)
            for person in people:
                await traveller.again(person)
            return list(await asyncio.gather(*(traveller.journey() for _ in range(count))))

    async def leave(self, names: list[str]) -> None:
        """End processes in order: who asks before who is asked."""
        await self._stack.end(*names)


async def meet(folder: Path, before: Earlier, *, short: bool) -> None:
    """Run both ways, and both at once. Raises `AssertionError` or `RuntimeError`."""
    async with part_stack(folder) as stack:
        await stack.start_mongo()
        await stack.start_nats()
        await stack.start_router()
        await stack.apply()
        fleet = Fleet(stack, before)
        people: list[Person] = []
        for asks, answers in (("ours", "previous"), ("previous", "ours")):
            console.print(f"gateway: {asks}; auth, sessions, automation: {answers}")
            stores = await fleet.start(answers, *STORES)
            (gateway,) = await fleet.start(asks, User.GATEWAY)
            people += await fleet.travel(gateway, people)
            await fleet.leave([gateway])
            await fleet.leave(stores)
        console.print("two processes of each service, one of each version")
        stores = [name for version in ("ours", "previous") for name in await fleet.start(version, *STORES)]
        gateways = [name for version in ("ours", "previous") for name in await fleet.start(version, User.GATEWAY)]
        for gateway in gateways:
            people += await fleet.travel(gateway, people, count=1 if short else AT_ONCE)
        await all_is_told(stack)
        await fleet.leave(gateways)
        await fleet.leave(stores)
    said = misunderstandings(folder / "logs")
    assert not said, "\n".join(said)


async def all_is_told(stack: PartStack) -> None:
    """Wait until every event is published and read; none may have been set aside."""
    with MongoClient[dict[str, Any]](stack.places.mongo_url(User.OPS)) as mongo:

        async def published() -> bool:
            return not any(mongo[store]["outbox"].count_documents({"published_at": None}) for store in STORES)

        assert await poll(published, seconds=PATIENCE_SECONDS, every=0.2), "events stay unpublished"
    connection = await nats.connect(stack.places.observer_url)
    try:
        jetstream = connection.jetstream()

        async def read() -> bool:
            consumer = await jetstream.consumer_info(Stream.EVENTS, "sessions-keys")
            return not consumer.num_pending and not consumer.num_ack_pending

        assert await poll(read, seconds=PATIENCE_SECONDS, every=0.2), "events stay unread"
        aside = (await jetstream.stream_info(Stream.DLQ)).state.messages
        assert not aside, f"{aside} events were set aside"
    finally:
        await connection.close()


def misunderstandings(logs: Path) -> list[str]:
    """Return every line of the services' logs that tells of one."""
    return [
        f"{log.name}: {line.strip()[:300]}"
        for log in sorted(logs.glob("*.log"))
        for line in log.read_text(errors="replace").splitlines()
        if any(sign in line for sign in MISUNDERSTOOD)
    ]


def run(folder: Path, *, short: bool) -> bool:
    """Have the two versions meet; say what went wrong."""
    recorded = json.loads(PREVIOUS.read_text())
    try:
        with earlier(recorded["commit"]) as before:
            if json.loads(before.contract(recorded["commit"])) != recorded:
                console.print(
                    f"{PREVIOUS.name} is not the contract of {recorded['commit']}: `make previous COMMIT={recorded['commit']}`."
                )
                return False
            asyncio.run(meet(folder, before, short=short))
    except HistoryError as error:
        console.print(str(error))
        return False
    except (AssertionError, RuntimeError) as error:
        console.print(f"The versions do not work together: {error}\nLogs are in {folder / 'logs'}.")
        return False
    console.print("Both versions understood each other, both ways and mixed.")
    return True


def record(commit: str) -> bool:
    """Make a commit the previous version."""
    try:
        whole = full_hash(commit)
        with earlier(whole) as before:
            PREVIOUS.write_text(before.contract(whole))
    except HistoryError as error:
        console.print(str(error))
        return False
    console.print(f"{PREVIOUS} is the contract of {whole}.")
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", metavar="COMMIT", help="make this commit the previous version, and do nothing else")
    parser.add_argument("--short", action="store_true", help="one user at a time")
    add_folder(parser)
    options = parser.parse_args()
    if options.record:
        return 0 if record(options.record) else 1
    return in_folder(options.folder, "morpheus-versions-", lambda folder: run(folder, short=options.short))


if __name__ == "__main__":
    sys.exit(main())
