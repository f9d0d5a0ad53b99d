"""What processes cost, as the kernel counts it (proc(5)): CPU time and memory."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")
"""Ticks of CPU time in a second: the kernel counts no finer than this, 10 ms on Linux."""


@dataclass(frozen=True)
class Stat:
    """What `/proc/PID/stat` says of a process: its parent, and CPU time in user and kernel mode, in seconds."""

    parent: int
    cpu_seconds: float


def read_stat(text: str) -> Stat:
    """Read a line of `/proc/PID/stat`. The name in it may hold spaces and brackets."""
    fields = text.rpartition(")")[2].split()
    return Stat(parent=int(fields[1]), cpu_seconds=(int(fields[11]) + int(fields[12])) / TICKS)


def _all_stats(proc: Path) -> dict[int, Stat]:
    found = {}
    for path in proc.glob("[0-9]*/stat"):
        try:
            found[int(path.parent.name)] = read_stat(path.read_text())
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
    return found


def family(pids: Iterable[int], proc: Path = PROC) -> list[int]:
    """Return processes and all that descend from them."""
    stats = _all_stats(proc)
    found, queue = set[int](), list(pids)
    while queue:
        pid = queue.pop()
        if pid in stats and pid not in found:
            found.add(pid)
            queue += [child for child, stat in stats.items() if stat.parent == pid]
    return sorted(found)


def cpu_seconds(pids: Iterable[int], proc: Path = PROC) -> float:
    """Return the CPU time that processes have had so far, all their threads.

    Raises:
        ProcessLookupError: one of them has ended: what it had is not known any more.
    """
    total = 0.0
    for pid in pids:
        try:
            total += read_stat((proc / str(pid) / "stat").read_text()).cpu_seconds
        except FileNotFoundError:
            raise ProcessLookupError(f"process {pid} has ended while it was measured") from None
    return total


def cpu_by_name(pids: Mapping[str, int], proc: Path = PROC) -> dict[str, float]:
    """Return the CPU time so far of each process, in seconds."""
    return {name: cpu_seconds([pid], proc) for name, pid in pids.items()}


def resident_bytes(pid: int, proc: Path = PROC) -> int:
    """Return how much memory a process has in RAM (VmRSS)."""
    for line in (proc / str(pid) / "status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(f"process {pid} has no memory")
