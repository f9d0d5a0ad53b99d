"""The file that holds the simulator's world between runs."""

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from proxy_router_sim.clock import VirtualClock
from proxy_router_sim.marketplace import WEI
from proxy_router_sim.simulator import Settings, build
from proxy_router_sim.state import StateFile, load
from proxy_router_sim.table import HistoryTable, Table, as_is

from tests.unit.proxy_router_sim.harness import NOON, USERS, running, until
from tests.unit.proxy_router_sim.test_command import start


class File:
    """A state file of one table."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.moment = 0
        self.table: Table[Any] = Table(as_is, as_is)
        self.file = StateFile(path, {"things": self.table}, lambda: {"moment": self.moment})

    def rows(self) -> dict[str, Any]:
        """What is stored."""
        world = load(self.path)
        assert world is not None
        return world.tables.get("things", {})


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[File]:
    made = File(tmp_path / "deep" / "state")
    made.file.save()
    yield made
    made.file.close()


def test_each_save_adds_what_changed_and_nothing_else(stored: File) -> None:
    stored.table.put("a", 1)
    stored.table.put("b", [2])
    stored.file.save()
    stored.table.put("a", 3)
    stored.table.remove("b")
    stored.table.remove("never there")
    stored.moment = 7
    stored.file.save()
    lines = [json.loads(line) for line in stored.path.read_text().splitlines()]
    assert [line["rows"] for line in lines[1:]] == [{"things": {"a": 1, "b": [2]}}, {"things": {"a": 3, "b": None}}]
    assert stored.rows() == {"a": 3}
    world = load(stored.path)
    assert world is not None
    assert world.facts == {"moment": 7}


def test_a_line_that_was_being_written_at_a_crash_does_not_count(stored: File) -> None:
    stored.table.put("a", 1)
    stored.file.save()
    whole = stored.path.read_bytes()
    stored.table.put("a", 2)
    stored.file.save()
    both = stored.path.read_bytes()
    for end in range(len(whole), len(both)):
        stored.path.write_bytes(both[:end])
        assert stored.rows() == {"a": 1}
    stored.path.write_bytes(both)
    assert stored.rows() == {"a": 2}


def test_a_broken_line_before_the_end_is_refused(stored: File) -> None:
    stored.path.write_bytes(b"{}\n" + stored.path.read_bytes())
    with pytest.raises(ValueError, match="move it away"):
        load(stored.path)


def test_a_file_that_has_grown_is_written_anew(stored: File) -> None:
    long = "x" * 100_000
    sizes = []
    for number in range(30):
        stored.table.put("a", f"{long}{number}")
        stored.file.save()
        sizes.append(stored.path.stat().st_size)
    assert max(sizes) < 1_500_000
    assert min(sizes[10:]) < 250_000
    assert stored.rows() == {"a": f"{long}29"}


def test_after_a_failed_write_the_file_is_written_anew(stored: File, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    stored.table.put("a", 1)
    monkeypatch.setattr(os, "fdatasync", full)
    with pytest.raises(OSError, match="No space left"):
        stored.file.save()
    monkeypatch.undo()
    stored.path.write_bytes(stored.path.read_bytes()[:-5])  # as a disk without space leaves it
    stored.file.save()
    assert stored.rows() == {"a": 1}
    assert len(stored.path.read_bytes().splitlines()) == 1


def test_a_table_of_history_goes_back_to_how_it_was() -> None:
    table: HistoryTable[int] = HistoryTable(as_is, as_is)
    table.put("a", 1)
    table.put("b", 2)
    table.take_changes()
    table.put("a", 5)
    table.put("a", 6)
    table.remove("b")
    table.put("c", 7)
    changes = table.take_changes()
    assert changes == {"a": 1, "b": 2, "c": None}
    table.undo(changes)
    assert table == {"a": 1, "b": 2}
    assert table.take_changes() == {}
    assert set(table.unsaved_rows()) == {"a", "b", "c"}


async def test_a_crash_between_any_two_changes_leaves_a_world_in_which_no_money_is_missing(tmp_path: Path) -> None:
    settings = Settings(users=USERS, answer_seconds=0, state_file=tmp_path / "state")
    async with running(settings) as router:
        await router.open()
        router.simulator.clock.advance(60)
        opened = await router.open()
        router.simulator.clock.advance(60)
        assert (await router.post(f"/blockchain/sessions/{opened}/close"))[0] == 200
        written = (tmp_path / "state").read_bytes()
    lines = written.splitlines(keepends=True)
    assert len(lines) > 10
    for count in range(1, len(lines) + 1):
        (tmp_path / "state").write_bytes(b"".join(lines[:count]) + lines[-1][:20])
        world = build(settings, VirtualClock(NOON + 1000))
        ledger, wallet = world.chain.ledger, world.node.wallet
        staked = sum(session.stake for session in ledger.sessions.values() if not session.closed_at)
        held = sum(hold.amount for hold in ledger.holds(wallet))
        assert ledger.mor_balance(wallet) + staked + held == 1_000_000 * WEI
        assert len(ledger.approvals) == len(ledger.sessions)
        assert not world.chain.mempool
        await world.close()


async def test_a_killed_router_has_forgotten_no_transaction_that_it_had_sent(tmp_path: Path) -> None:
    headers = {"Authorization": aiohttp.encode_basic_auth("admin", "secret")}
    state = ["--state", str(tmp_path / "state"), "--block-time", "0.02"]
    process, where = await start(*state)
    async with aiohttp.ClientSession(where["url"], headers=headers) as http:
        fault = {"kind": "open", "action": "hang", "params": {"stage": "in_mempool"}}
        await http.post("/sim/faults", json=fault)
        async with http.get("/blockchain/models") as response:
            model = (await response.json())["models"][0]["Id"]
        opening = asyncio.create_task(http.post(f"/blockchain/models/{model}/session", json={"sessionDuration": 3600}))

        async def waits() -> object:
            async with http.get("/sim/faults") as response:
                return (await response.json())["waiting"]

        await until(waits)
        process.kill()
        await process.wait()
        await asyncio.gather(opening, return_exceptions=True)
    process, where = await start(*state)
    async with aiohttp.ClientSession(where["url"], headers=headers) as http:
        async with http.get("/sim/state") as response:
            world = await response.json()
    process.kill()
    await process.wait()
    assert [world["opens_total"], world["open_count"], world["pending_transactions"]] == [1, 1, 0]
    assert world["closer"]["known_sessions"] == 1
