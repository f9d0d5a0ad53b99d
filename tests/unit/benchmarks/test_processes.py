import os
from pathlib import Path

import pytest

from benchmarks import processes
from benchmarks.processes import TICKS, cpu_by_name, cpu_seconds, family, read_stat, resident_bytes


def stat(pid: int, parent: int, user: int, system: int, name: str = "python") -> str:
    """A line of /proc/PID/stat: proc(5) numbers the parent 4, and the times 14 and 15."""
    return f"{pid} ({name}) S {parent} 1 1 0 -1 4194560 2 3 4 5 {user} {system} 99 98 20 0 7 0 12345 1000 200\n"


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    lines = {
        10: stat(10, 1, 150, 50),
        11: stat(11, 10, 25, 25, "a (b) c"),
        12: stat(12, 11, 100, 0),
        20: stat(20, 1, 7, 7),
    }
    for pid, line in lines.items():
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_text(line)
    (tmp_path / "10" / "status").write_text("Name:\tpython\nVmPeak:\t  900 kB\nVmRSS:\t  512 kB\n")
    (tmp_path / "sys").mkdir()
    return tmp_path


def test_cpu_time_is_that_in_user_and_in_kernel_mode(proc: Path) -> None:
    assert cpu_seconds([10], proc) == pytest.approx(200 / TICKS)
    assert cpu_seconds([10, 11, 12], proc) == pytest.approx(350 / TICKS)
    assert cpu_by_name({"gateway": 10, "sessions": 12}, proc) == {"gateway": 200 / TICKS, "sessions": 100 / TICKS}


def test_a_name_with_brackets_and_spaces_moves_no_field(proc: Path) -> None:
    assert cpu_seconds([11], proc) == pytest.approx(50 / TICKS)
    assert read_stat(stat(5, 4, 1, 2, "x) R 9 (y")).parent == 4


def test_a_family_is_a_process_with_all_its_descendants(proc: Path) -> None:
    assert family([10], proc) == [10, 11, 12]
    assert family([11, 20], proc) == [11, 12, 20]
    assert family([99], proc) == []


def test_a_process_that_has_ended_is_no_process_without_cost(proc: Path) -> None:
    with pytest.raises(ProcessLookupError, match="99"):
        cpu_seconds([10, 99], proc)


def test_memory_is_what_is_in_ram(proc: Path) -> None:
    assert resident_bytes(10, proc) == 512 * 1024


def test_the_kernels_own_figures_can_be_read() -> None:
    me = os.getpid()
    before = cpu_seconds([me])
    assert sum(os.times()[:2]) == pytest.approx(before, abs=0.1)
    assert me in family([os.getppid()])
    assert resident_bytes(me) > 1024 * 1024
    assert Path("/proc") == processes.PROC
