"""Rules of the images' recipe, each first shown to catch what it forbids."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.docker import images
from deploy.docker.healthcheck import is_well
from deploy.docker.images import TARGETS, Engine, default_base
from requirements.install import ROOT
from tests.deploy.recipes import DOCKERFILE, compose, ignored, stages

STAGES = stages(DOCKERFILE)
IGNORE = (ROOT / ".dockerignore").read_text()
SERVICES = ("gateway", "auth", "sessions", "automation")


def last(instructions: list[str], kind: str) -> str:
    return next((line for line in reversed(instructions) if line.startswith(f"{kind} ")), "")


def test_the_reader_follows_stages_and_continued_lines() -> None:
    text = "FROM x AS a\nUSER 1:1\n# USER 0\nFROM a AS b\nRUN one \\\n    two\nUSER 2:2\n"
    assert stages(text) == {
        "a": ["FROM x AS a", "USER 1:1"],
        "b": ["FROM x AS a", "USER 1:1", "RUN one two", "USER 2:2"],
    }


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_as_a_numbered_user_who_is_not_root(target: str) -> None:
    assert re.fullmatch(r"USER [1-9]\d*:[1-9]\d*", last(STAGES[target], "USER"))


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_its_program_without_a_shell_so_that_signals_reach_it(target: str) -> None:
    """`C44`"""
    assert re.fullmatch(r'ENTRYPOINT \[".+"\]', last(STAGES[target], "ENTRYPOINT"))
    assert last(STAGES[target], "STOPSIGNAL") == "STOPSIGNAL SIGTERM"


@pytest.mark.parametrize("target", SERVICES)
def test_a_services_health_is_that_it_lives_and_is_asked_on_its_private_port(target: str) -> None:
    """`C43`, `C53`: a lost database must not make a supervisor restart everything."""
    assert 'healthcheck.py", "http://127.0.0.1:9464/live"]' in last(STAGES[target], "HEALTHCHECK")
    assert "ENVIRONMENT=production" in " ".join(STAGES[target])


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_holds_what_its_own_lock_installs_and_nothing_it_was_made_with(target: str) -> None:
    """`C40`"""
    copies = [line for line in STAGES[target] if line.startswith(("COPY", "ADD"))]
    assert copies[0] == f"COPY --from=build-{target} /opt/morpheus /opt/morpheus"
    assert all("/opt/empty" in line for line in copies[1:])
    assert not [line for line in STAGES[target] if line.startswith("RUN")]
    installed = [line for line in STAGES[f"build-{target}"] if "install.sh" in line and line.startswith("RUN")]
    assert installed[1].endswith(f"install.sh {target}")
    assert (ROOT / "requirements" / f"{target}.lock").is_file()


@pytest.mark.parametrize("target", SERVICES)
def test_a_services_image_has_no_other_services_code(target: str) -> None:
    copied = [line for line in STAGES[f"build-{target}"] if line.startswith("COPY") and "services/" in line]
    assert {name for line in copied for name in re.findall(r"services/(\w+)", line)} == {target}


def test_the_base_is_pinned_to_a_patch_and_can_be_another() -> None:
    assert re.fullmatch(r"python:3\.1[1-3]\.\d+-slim-\w+(@sha256:[0-9a-f]{64})?", default_base())
    assert DOCKERFILE.count("FROM ${BASE_IMAGE} AS base") == 1
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) - set(STAGES) == {"${BASE_IMAGE}"}


@pytest.mark.parametrize(("options", "fresh"), [((), False), (("--no-cache",), True), (("--release",), True)])
def test_a_release_is_built_without_what_was_built_before(
    options: tuple[str, ...], fresh: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers from the cache may have the times of another commit."""
    built: dict[str, bool] = {}

    def build(_: Engine, target: str, *__: object, fresh: bool, **___: object) -> None:
        built[target] = fresh

    monkeypatch.setattr(images, "build", build)
    monkeypatch.setattr(images, "our_bytes", lambda *_: 1)
    monkeypatch.setattr(sys, "argv", ["images", "--base-image", "python@sha256:00", *options, "gateway", "ops"])
    images.main()
    assert built == {"base": False, "gateway": fresh, "ops": fresh}


def test_no_secret_goes_into_a_layer_of_an_image() -> None:
    """A mirror's address and password, and certificates, are mounted while a step runs."""
    assert not re.search(r"^(ARG|ENV).*(INDEX|TOKEN|PASSWORD|NATS_SEED|CERT)", DOCKERFILE, re.MULTILINE)
    assert "--mount=type=secret,id=registry" in DOCKERFILE


@pytest.mark.parametrize(
    "path",
    [
        ".git/config", ".env", ".data/secrets.json", ".venv/bin/python", "secrets/auth/NATS_SEED", "settings/auth.env",
        "tests/unit/x.py", "benchmarks/x", "tools/compose/node_modules/x/y", "services/auth/morpheus_auth/x.pyc",
        "libs/common/morpheus_common/__pycache__/x.cpython-311.pyc", "services/auth/.env", "deploy/docker/.env",
        "services/gateway/morpheus_gateway/site/index.html", "id_rsa", "keys.json",
    ],
)  # fmt: skip
def test_what_is_no_business_of_the_builder_does_not_reach_it(path: str) -> None:
    assert ignored(IGNORE, Path(path))


def test_what_is_installed_reaches_the_builder() -> None:
    listed = subprocess.run(["git", "ls-files", "libs", "services", "requirements"], cwd=ROOT, capture_output=True, text=True, check=True)  # fmt: skip
    files = listed.stdout.split()
    assert len(files) > 200
    assert [file for file in files if ignored(IGNORE, Path(file))] == []


def test_compose_and_the_recipe_name_the_same_targets() -> None:
    built = {row["build"]["target"] for row in compose()["services"].values() if "build" in row}
    assert built == set(TARGETS)


def test_a_health_check_fails_where_nobody_answers() -> None:
    assert not is_well("http://127.0.0.1:1/live")
