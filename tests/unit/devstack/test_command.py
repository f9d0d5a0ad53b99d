"""The command line: what goes wrong is one clear sentence on stderr, exit code 1, and no traceback."""

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from morpheus_devstack import cli, servers
from morpheus_devstack.ports import LOOPBACK, free_ports

Run = Callable[..., str]


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs a command which fails, and returns its last line on stderr."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["morpheus", *arguments])
        with pytest.raises(SystemExit) as left:
            cli.main()
        assert left.value.code == 1
        shown = capsys.readouterr()
        assert shown.out == ""
        assert "Traceback" not in shown.err
        return shown.err.splitlines()[-1]

    return run


@pytest.mark.parametrize(
    ("option", "whose"), [("--port", "gateway"), ("--simulator-port", "simulated router")], ids=["gateway", "simulator"]
)
def test_a_taken_port_is_named_with_the_way_out(fails: Run, tmp_path: Path, option: str, whose: str) -> None:
    ports = dict(zip(("--port", "--simulator-port"), map(str, free_ports(2)), strict=True))
    with socket.socket() as listener:
        listener.bind((LOOPBACK, int(ports[option])))
        listener.listen()
        said = fails("up", *(word for pair in ports.items() for word in pair), "--data", str(tmp_path / "data"))
    assert said.startswith(f"morpheus: Port {ports[option]}, where the {whose} should listen, is taken")
    assert option in said


@pytest.mark.parametrize("program", ["mongod", "nats-server"])
def test_a_missing_server_is_named_with_the_way_out(
    fails: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    if program == "mongod":
        monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    else:
        monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    said = fails("up", "--port", "0", "--data", str(tmp_path / "data"))
    assert said.startswith(f"morpheus: {program} was not found: run `make install`")


def test_a_server_that_crashes_at_start_is_named_with_its_last_words(
    fails: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "mongod"
    program.write_text("#!/bin/sh\necho 'the disk is made of cheese' >&2\nexit 14\n")
    program.chmod(0o755)
    monkeypatch.setattr(servers, "find_mongod", lambda: str(program))
    said = fails("up", "--port", "0", "--data", str(tmp_path / "data"))
    assert said.startswith("morpheus: mongod ended with status 14 (its last words: the disk is made of cheese)")


def test_a_real_router_needs_credentials(fails: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROXY_ROUTER_USER", raising=False)
    said = fails("up", "--port", "0", "--router", "http://127.0.0.1:1", "--data", str(tmp_path / "data"))
    assert "set PROXY_ROUTER_USER and PROXY_ROUTER_PASSWORD" in said


def test_apply_without_a_stack_says_what_it_misses(fails: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NATS_URL", "NATS_SEED", "MONGO_URL"):
        monkeypatch.delenv(name, raising=False)
    # a development stack was once started here: it is not what an operator means
    (tmp_path / ".data").mkdir()
    (tmp_path / ".data" / "stack.env").write_text("NATS_URL=nats://here\nNATS_SEED=x\nMONGO_URL=mongodb://here\n")
    monkeypatch.chdir(tmp_path)
    assert "who asks: NATS_URL, NATS_SEED, MONGO_URL missing." in fails("apply")
    assert "no stack was started" in fails("apply", "--data", str(tmp_path))


def test_restart_without_a_stack_says_so(fails: Run, tmp_path: Path) -> None:
    assert fails("restart", "auth", "--data", str(tmp_path)) == f"morpheus: No stack runs in {tmp_path}."
