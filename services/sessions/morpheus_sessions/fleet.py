"""The fleet: which routers there are, which of them may be given opens, and why not the others.

A router's name keeps its wallet, chain, contract and deployment number for ever: sessions remember their router by its name, and
what a stranger's wallet opens, or another number tags, is not ours. What is wrong with one router keeps that one out
and touches no other.
"""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from morpheus_common.logs import get_logger
from pymongo.errors import DuplicateKeyError, PyMongoError

from morpheus_sessions.breaker import Breaker, Circuit
from morpheus_sessions.documents import RouterDocument
from morpheus_sessions.queueing import Till
from morpheus_sessions.router import (
    CREDENTIALS_REFUSED,
    ROUTER_ERRORS,
    Identity,
    Router,
    RouterRefused,
    RouterUnreachable,
)

log = get_logger(__name__)


class Member:
    """One router of the fleet. `problem`: why it is not used at all, None if nothing is known against it."""

    def __init__(self, router: Router, till: Till, breaker: Breaker | None = None, *, deployment: int) -> None:
        self.router = router
        self.till = till
        self._deployment = deployment
        self._looking = asyncio.Lock()
        self.breaker = breaker or Breaker()
        self.problem: str | None = None
        self._was_known = False
        self._is_known = False
        """Whether wallet and chain were held beside what is stored since it last came back; the other: ever."""

    @property
    def is_fit(self) -> bool:
        """Whether wallet and chain are those of its name."""
        return self._was_known and self.problem is None

    @property
    def is_away(self) -> bool:
        """Whether no open can be given to it now."""
        return not self._is_known or self.problem is not None or self.breaker.state is Circuit.OPEN

    @property
    def may_come(self) -> bool:
        """Whether an open may wait for it: it works, or it has not been asked for the first time yet."""
        return self.problem is None and self.breaker.state is not Circuit.OPEN

    def may_open(self, running: int) -> bool:
        """Tell whether one more open may be given to it while `running` are under way."""
        return not self.is_away and self.breaker.may_open(running)

    async def look(self) -> None:
        """Ask whether it is there, takes our credentials, and is who it was."""
        async with self._looking:
            if self.breaker.may_probe:
                await self._look()

    async def _look(self) -> None:
        before = self.breaker.state
        try:
            await self._identify()
        except RouterRefused as error:
            if error.status in CREDENTIALS_REFUSED:
                self.breaker.refused()
            else:
                self.breaker.unanswered()
        except ROUTER_ERRORS:
            self.breaker.unanswered()
        except PyMongoError as error:
            log.warning("a router's wallet is not checked", router=self.router.name, problem=type(error).__name__)
        else:
            self.breaker.answered()
        if self.breaker.state is Circuit.OPEN:
            # it may be another when it comes back
            self._is_known = False
        if self.breaker.state is not before:
            log.warning("circuit to a router", router=self.router.name, before=before, now=self.breaker.state)

    async def _identify(self) -> None:
        if self._is_known and await self.router.current_wallet() == self.router.wallet:
            return
        identity = await self.router.who()
        problem = await self._problem_with(identity)
        if problem != self.problem and problem is not None:
            log.critical("a router is not used", router=self.router.name, wallet=identity.wallet, problem=problem)
        elif problem != self.problem:
            log.warning("a router is used again", router=self.router.name, wallet=identity.wallet)
        self.problem = problem
        self._is_known = problem is None
        if problem is None:
            self.router.adopt(identity)
            self._was_known = True

    async def _problem_with(self, identity: Identity) -> str | None:
        """Hold a router beside what is stored of it; store what is not yet. Returns what an operator has to do."""
        routers = RouterDocument.get_pymongo_collection()
        try:
            await routers.update_one(
                {"_id": self.router.name},
                {
                    "$setOnInsert": {
                        "wallet": identity.wallet,
                        "chain": identity.chain,
                        "diamond": identity.diamond,
                        "deployment": self._deployment,
                    }
                },
                upsert=True,
            )
        except DuplicateKeyError:
            other: Any = await routers.find_one({"wallet": identity.wallet})
            name = "another router" if other is None else f"the router {other['_id']!r}"
            return f"Its wallet is that of {name}. Give each router a wallet of its own, and each wallet one name for ever."
        known: Any = await routers.find_one({"_id": self.router.name})
        if known["wallet"] != identity.wallet:
            return (
                f"This name stands for the wallet {known['wallet']}. Give the router that wallet back, or another name in"
                " PROXY_ROUTERS."
            )
        if known["chain"] != identity.chain:
            return f"This name stands for a wallet on chain {known['chain']}, the router is on {identity.chain}."
        # records of before contract and number were kept have none
        if known.get("diamond", identity.diamond) != identity.diamond:
            return (
                f"This name stands for sessions in the contract {known['diamond']}, the router works with {identity.diamond}:"
                " it sees none of them. Give the router its contract back, or another name and wallet in PROXY_ROUTERS."
            )
        number = known.get("deployment", self._deployment)
        if number != self._deployment:
            return (
                f"The stakes on its wallet are tagged with deployment {number}: what carries another number is not ours to"
                f" close. Set DEPLOYMENT_NUMBER to {number} again."
            )
        return None


class Fleet:
    """All routers, in the order of PROXY_ROUTERS. `led`: those whose wallets this worker leads; `left_behind`: what is to be
    done about those that were taken out of it too early, by name.
    """

    def __init__(self, members: Iterable[Member]) -> None:
        self.members = list(members)
        self.led: set[str] = set()
        self.left_behind: Mapping[str, str] = {}
        self.competing = asyncio.Lock()
        self.reader: Router = FleetReader(self.members)

    @property
    def states(self) -> Mapping[str, str]:
        """What is known of each router, by its name: `ok`, `away`, or what is wrong with it."""
        known = {item.router.name: item.problem or ("away" if item.is_away else "ok") for item in self.members}
        return known | dict(self.left_behind)

    @property
    def is_healthy(self) -> bool:
        """Whether at least one router can be given an open."""
        return any(not item.is_away for item in self.members)

    @property
    def is_whole(self) -> bool:
        """Whether all can, and none was taken out too early."""
        return not self.left_behind and all(not item.is_away for item in self.members)

    def is_anyone_left(self, *, besides: Iterable[str]) -> bool:
        """Tell whether an open that these wallets do not carry out may wait for another router."""
        wallets = set(besides)
        return any(item.may_come and item.router.wallet not in wallets for item in self.members)


class FleetReader(Router):
    """Reads the marketplace, which is the same for all, through the first router that is there."""

    def __init__(self, members: list[Member]) -> None:
        # no connection of its own
        self.name = "fleet"
        self.wallet = ""
        self.chain = 0
        self.diamond = ""
        self._members = members

    async def _get(self, path: str, params: dict[str, Any] | None = None, *, timeout: float | None = None) -> Any:
        problem: RouterUnreachable | None = None
        for member in sorted(self._members, key=lambda item: item.is_away):
            try:
                return await member.router._get(path, params, timeout=timeout)
            except RouterUnreachable as error:
                problem = error
        raise problem or RouterUnreachable("no router")
