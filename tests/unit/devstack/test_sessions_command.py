"""How amounts, times and names are shown, and what is said before the bus is asked."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from morpheus_devstack import cli, sessions_command
from morpheus_devstack.audit import Audit
from morpheus_devstack.operator_console import write_json, write_table
from morpheus_devstack.secrets import new_seed
from morpheus_devstack.sessions_command import age, duration, mor


@pytest.mark.parametrize(
    ("wei", "shown"),
    [
        (None, ""),
        (0, "0"),
        (1, "0.000000000000000001"),
        (10**18, "1"),
        (100 * 10**18, "100"),
        (11_400_000_000_007_000_001, "11.400000000007000001"),
        (42_000_000 * 10**18 + 1, "42000000.000000000000000001"),
    ],
)
def test_an_amount_is_shown_exactly(wei: int | None, shown: str) -> None:
    assert mor(wei) == shown


@given(st.integers(0, 10**26))
def test_no_wei_is_lost_in_showing_it(wei: int) -> None:
    whole, _, part = mor(wei).partition(".")
    assert int(whole) * 10**18 + int(part.ljust(18, "0")) == wei


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-5, "over"),
        (0, "over"),
        (59, "59 s"),
        (60, "1 min 0 s"),
        (3_599, "59 min 59 s"),
        (3_660, "1 h 1 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_a_time_is_shown_in_its_two_largest_units(seconds: int, shown: str) -> None:
    assert duration(timedelta(seconds=seconds)) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(-2, "0 s"), (0, "0 s"), (0.4, "0 s"), (1, "1 s"), (3_660, "1 h 1 min")]
)
def test_what_the_chain_dates_a_little_ahead_of_us_is_new_and_not_over(seconds: float, shown: str) -> None:
    assert age(timedelta(seconds=seconds)) == shown


def test_an_audit_says_in_words_too_what_is_in_flight(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Audit(sessions=1, stake=10**18, differences=[], in_flight=2)
    monkeypatch.setattr(sessions_command, "ask", lambda *_: made)
    sessions_command.audit(data=None, as_json=False, apart=0, allow_foreign=False)
    sessions_command.audit(data=None, as_json=True, apart=0, allow_foreign=False)
    words, line = capsys.readouterr().out.splitlines()
    assert words == "1 session, 1 MOR at stake: no difference; 2 in flight, seen by the first reading only."
    assert json.loads(line)["in_flight"] == 2


def test_a_name_cannot_command_the_terminal_or_pretend_to_be_markup(capsys: pytest.CaptureFixture[str]) -> None:
    write_table(("MODEL",), [["\x1b[2Jcleared"], ["[red]loud[/red]"], ["two\nlines"]])
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\N{REPLACEMENT CHARACTER}[2Jcleared" in shown
    assert "[red]loud[/red]" in shown
    assert len(shown.splitlines()) == 4


def test_no_line_is_broken_or_cut_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    write_table(("A", "B"), [["x" * 300, "y" * 300]])
    _, row = capsys.readouterr().out.splitlines()
    assert row.split() == ["x" * 300, "y" * 300]


def _fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    monkeypatch.setattr("sys.argv", ["morpheus", "sessions", *arguments])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    return shown.err


def test_without_a_place_to_ask_it_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name in ("NATS_URL", "NATS_SEED"):
        monkeypatch.delenv(name, raising=False)
    assert _fails(monkeypatch, capsys, "list") == (
        "morpheus: The environment does not say where the servers are and who asks: NATS_URL, NATS_SEED missing. "
        "--data names the folder of a development stack.\n"
    )
    said = _fails(monkeypatch, capsys, "audit", "--data", str(tmp_path))
    assert said == f"morpheus: {tmp_path}/stack.env does not exist: no stack was started in {tmp_path}.\n"


def test_a_seed_that_is_none_is_not_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("NATS_URL", "nats://127.0.0.1:1")
    monkeypatch.setenv("NATS_SEED", "not-a-seed-but-secret")
    assert _fails(monkeypatch, capsys, "list") == "morpheus: NATS_SEED is not the seed of an NKey user.\n"


def test_a_bus_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("NATS_URL", "nats://127.0.0.1:1")
    monkeypatch.setenv("NATS_SEED", new_seed())
    said = _fails(monkeypatch, capsys, "list")
    assert said.startswith("morpheus: The bus at nats://127.0.0.1:1 cannot be used: ")
    assert "refused" in said or "Connect call failed" in said


def test_json_lines_are_one_object_each(capsys: pytest.CaptureFixture[str]) -> None:
    write_json([{"a": "ü\n"}, {"b": 2}])
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [{"a": "ü\n"}, {"b": 2}]
