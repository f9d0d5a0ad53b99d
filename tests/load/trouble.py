"""Trouble while prompts run: answers that go wrong at any chunk, routers that refuse, workers that are killed."""

import asyncio
import contextlib
import random
from collections import Counter

import httpx2

from tests.faults.stack import WORKERS, FaultStack

REARM_SECONDS = 2.0
SHARE = 0.004
"""Of the prompts each armed fault strikes."""
CHUNKS = 12
ANSWERS = ("truncate", "cut", "raw_error", "model_error", "stall", "no_done", "no_usage", "control", "unstreamed")
SPOILT = ("half_utf8", "invalid_json", "one_byte")
CALLS = ("drop", "error_before", "error_after", "delay")
STALL_SECONDS = 0.3


class Trouble:
    """Makes trouble until it is cancelled; `made` counts what was done."""

    def __init__(self, stack: FaultStack, *, kill_every: float | None, seed: int) -> None:
        self._stack = stack
        self._kill_every = kill_every
        self._chance = random.Random(f"trouble/{seed}")
        self.made: Counter[str] = Counter()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._spoil_answers())
            if self._kill_every is not None:
                group.create_task(self._kill_workers(self._kill_every))

    async def _spoil_answers(self) -> None:
        """Arm every kind of fault at another chunk each time."""
        while True:
            with contextlib.suppress(httpx2.HTTPError):  # a busy simulator is asked again with the next round
                await self._stack.chain.disarm()
                for action in (*ANSWERS, *SPOILT, *CALLS):
                    params: dict[str, float] = {"at": self._chance.randrange(CHUNKS)}
                    if action in {"stall", "delay"}:
                        params["seconds"] = STALL_SECONDS
                    await self._stack.chain.arm("chat", action, count=None, probability=SHARE, **params)
                self.made["rounds of faults"] += 1
            await asyncio.sleep(REARM_SECONDS)

    async def _kill_workers(self, every: float) -> None:
        while True:
            await asyncio.sleep(every)
            worker = self._stack.parts[self._chance.choice(WORKERS)]
            await worker.kill()
            await worker.start()
            self.made["workers killed"] += 1
