"""Ports on loopback."""

import asyncio
import socket
from contextlib import ExitStack

from morpheus_devstack.errors import StackError

LOOPBACK = "127.0.0.1"


def is_free(port: int) -> bool:
    """Tell whether a server could listen on `port` now."""
    with socket.socket() as probe:
        # without it, connections of an earlier run that are still closing would count as a listener
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free_ports(count: int) -> list[int]:
    """Return `count` different free ports. They are held together until all are known, so that none comes up twice."""
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((LOOPBACK, 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def require_free(port: int, *, whose: str, way_out: str) -> None:
    """Check that `port` is free.

    Raises:
        StackError: it is not; the sentence names the port, `whose` it was to be, and the `way_out`.
    """
    if not is_free(port):
        raise StackError(f"Port {port}, where the {whose} should listen, is taken by another program; {way_out}.")


def remembered_or_free(port: int | None) -> int:
    """Return `port` if it is known and free, else a free one."""
    return port if port and is_free(port) else free_ports(1)[0]


async def accepts_connections(port: int) -> bool:
    """Tell whether something listens on `port`."""
    try:
        _, writer = await asyncio.open_connection(LOOPBACK, port)
    except OSError:
        return False
    writer.close()
    return True
