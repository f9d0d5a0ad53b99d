"""`morpheus …` as an operator runs it beside a cluster: with the address of the bus and a user on it."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

from morpheus_common.bus.names import User

from tests.servers import NatsAccount

MORPHEUS = Path(sys.executable).with_name("morpheus")


class Said(NamedTuple):
    """How a command ended and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    def kinds(self) -> dict[str, str]:
        """What an audit found, by what it is about."""
        return {line["session"]: line["kind"] for line in self.lines[:-1]}


async def morpheus(account: NatsAccount, *arguments: str, user: User = User.OPS, typed: str = "") -> Said:
    """Run `morpheus …`. `typed` is what it is told on its standard input."""
    process = await asyncio.create_subprocess_exec(
        str(MORPHEUS),
        *arguments,
        env={**os.environ, "NATS_URL": account.url, "NATS_SEED": account.seeds[user]},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(typed.encode()), 60)
    assert process.returncode is not None
    return Said(process.returncode, out.decode(), err.decode())
