"""The images themselves, and the system of them: `make test-images`. Needs a container engine, and a base image that is there."""

import re
from pathlib import Path

import pytest

from deploy.docker.images import OUR_BYTES, TARGETS, our_bytes
from tests.images.engine import ENGINE, System, asked, built_anew, contents, image

SERVICES = ("auth", "sessions", "automation", "gateway")
OURS = (*SERVICES, "simulator")
FOREIGN = ("nats", "mongodb", "valkey")
CHAT = """
import asyncio, pathlib
from morpheus_devstack.demo import Demo
async def main():
    demo = Demo("http://127.0.0.1:8000/api/v1", pathlib.Path("/tmp/demo.json"))
    account = await demo.prepare()
    model = await demo.model()
    print("ANSWER", "".join([piece async for piece in demo.chat(account, model)]))
asyncio.run(main())
"""
PAGES = """
import urllib.request
for path in ("/docs", "/docs/getting-started"):
    print(path, urllib.request.urlopen("http://127.0.0.1:8000" + path).status)
"""


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize("target", TARGETS)
def test_an_image_is_small_and_runs_as_nobody_in_particular(target: str) -> None:
    known = ENGINE.inspect(image(target))
    assert known["Config"]["User"] == "10001:10001"  # type: ignore[index]  # JSON
    assert our_bytes(ENGINE, image(target), image("base")) <= OUR_BYTES


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize("target", TARGETS)
def test_an_image_holds_no_tool_no_test_and_nothing_of_a_working_copy(target: str) -> None:
    """`C40`"""
    names = set(contents(image(target)))
    assert any(name.endswith(".pyc") for name in names)
    for unwanted in (
        r"/(uv|pip|pytest|mongod|nats-server)$",
        r"/tests/",
        r"/\.git(/|$)",
        r"\.data",
        r"secrets\.json$",
        r"\.env$",
    ):
        assert [name for name in names if re.search(unwanted, name)] == []


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize("target", ["gateway", "simulator"])
def test_built_twice_from_nothing_an_image_has_the_same_content(target: str) -> None:
    """`C40`"""
    names = [f"morpheus-{target}:{time}" for time in ("once", "again")]
    try:
        for name in names:
            built_anew(target, name)
        first, second = (contents(name) for name in names)
    finally:
        asked("image", "rm", *names)
    assert len(first) > 300
    assert {name for name in first.keys() | second.keys() if first.get(name) != second.get(name)} == set()


def test_the_system_of_our_images_answers_a_chat(system: System) -> None:
    """`C43`: it was waited for by its readiness."""
    said = system.run_beside(CHAT)
    assert re.search(r"ANSWER \S.{20,}", said)


def test_the_gateways_image_has_the_documentation(system: System) -> None:
    assert system.run_beside(PAGES).split() == ["/docs", "200", "/docs/getting-started", "200"]


@pytest.mark.parametrize("service", [*OURS, *FOREIGN])
def test_a_container_is_healthy_without_a_right_it_does_not_need(system: System, service: str) -> None:
    known = system.inspected(service)
    assert known["State"]["Health"]["Status"] == "healthy"
    assert known["HostConfig"]["ReadonlyRootfs"] is True
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", known["Config"]["User"])
    status = asked("exec", known["Id"], "cat", "/proc/1/status")
    assert re.findall(r"Cap(?:Prm|Eff|Bnd):\s*(\w+)", status) == ["0" * 16] * 3
    assert re.search(r"NoNewPrivs:\s*1", status)


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_reads_its_own_secrets_and_has_none_in_its_environment(system: System, service: str) -> None:
    known = system.inspected(service)
    listed = set(asked("exec", known["Id"], "ls", "/run/secrets").split())
    folder = system.folder / "secrets" / service
    assert listed == {path.name for path in folder.iterdir()}
    told = "\n".join(known["Config"]["Env"])
    for path in (system.folder / "secrets").rglob("*"):
        if path.is_file():
            assert path.read_text().strip() not in told


def test_no_secret_is_in_a_log(system: System) -> None:
    said = system.compose("logs", "--no-color")
    assert "gateway" in said
    secrets = [path for path in (system.folder / "secrets").rglob("*") if path.is_file() and path.suffix != ".conf"]
    assert len(secrets) > 10
    for path in secrets:
        assert path.read_text().strip() not in said, path.name


def test_a_secret_belongs_to_who_reads_it_and_nobody_else_may(system: System) -> None:
    for path in (system.folder / "secrets").rglob("*"):
        if path.is_file():
            owner = {"mongodb": 999, "grafana": 472}.get(Path(path).parent.name, 10001)
            assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (owner, 0o400), path.name


@pytest.mark.parametrize("service", OURS)
def test_told_to_go_it_drains_and_ends_with_zero(system: System, service: str) -> None:
    """`C44`, `B24`"""
    system.compose("stop", service)
    state = system.inspected(service)["State"]
    assert (state["ExitCode"], state["OOMKilled"], state["Error"]) == (0, False, "")
    system.compose("start", service)
