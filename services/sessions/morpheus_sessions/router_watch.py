"""Whether the proxy-routers answer, known without asking: what a `ping` is answered from, and who is given opens."""

import asyncio

from morpheus_sessions.fleet import Fleet, Member

LOOK_SECONDS = 1.0


class RouterWatch:
    """Looks at every router again and again."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet

    @property
    def healthy(self) -> bool:
        """Tell whether at least one router can be given an open."""
        return self.fleet.is_healthy

    @property
    def degraded(self) -> bool:
        """Tell whether some can, and some cannot."""
        return self.fleet.is_healthy and not self.fleet.is_whole

    async def run(self) -> None:
        """Look until cancelled: one that is slow keeps no other waiting."""
        await asyncio.gather(*(self._watch(member) for member in self.fleet.members))

    async def _watch(self, member: Member) -> None:
        while True:
            await member.look()
            await asyncio.sleep(LOOK_SECONDS)
