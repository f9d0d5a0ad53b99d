"""Rules of this repository that no linter knows, each first shown to catch what it forbids."""

import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.unit.repository import conventions
from tests.unit.repository.conventions import ROOT, SERVICES

LOCKS = sorted((ROOT / "requirements").glob("*.lock"))


def tracked_files(*patterns: str) -> list[Path]:
    """Return files under version control, and new ones that are not ignored, relative to the root."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *patterns]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [path for name in listed.split("\0") if name and (ROOT / (path := Path(name))).is_file()]


PYTHON_FILES = tracked_files("*.py")


def text_of(path: Path) -> str:
    return (ROOT / path).read_text(encoding="utf-8", errors="replace")


def test_the_search_for_files_finds_this_one() -> None:
    assert Path(__file__).relative_to(ROOT) in PYTHON_FILES


def test_the_rules_catch_what_they_forbid() -> None:
    assert conventions.foreign_services("auth", "def f():\n    from morpheus_sessions.x import y\n") == {
        "morpheus_sessions"
    }
    assert conventions.starts_transaction("async with await s.start_transaction(): ...")
    assert not conventions.starts_transaction("# start_transaction\nx = 'start_transaction'")
    lines = "a = 1  # noqa: S101\nb = 2  # type: ignore[misc]\nc = 3  # noqa: S101, E501 - shown on one line\n"
    lines += "d = 4  # type: ignore[misc]  # stub is wrong\ne = 5  # type: ignore[misc]  # noqa: S101\n"
    assert list(conventions.suppressions_without_reason(lines)) == [1, 2, 5]
    for address in ("https://files.pythonhosted.org/x", "--index-url x", '"resolved": "https://a/b"'):
        assert conventions.registry_addresses(address)
    assert conventions.pins("a==1 \\\n    --hash=sha256:00\nb==2 ; python_version < '3.12'\n") == {
        ("a", "1"): True,
        ("b", "2"): False,
    }


@pytest.mark.parametrize("service", SERVICES)
def test_no_service_imports_another(service: str) -> None:
    found = {
        path: conventions.foreign_services(service, text_of(path)) for path in tracked_files(f"services/{service}/*.py")
    }
    assert {str(path): names for path, names in found.items() if names} == {}


def test_libraries_of_the_services_import_no_service() -> None:
    found = [
        str(path)
        for path in tracked_files("libs/common/*.py", "libs/proxy_router_sim/*.py")
        if conventions.imported(text_of(path)) & {f"morpheus_{service}" for service in SERVICES}
    ]
    assert found == []


def test_domain_files_know_neither_web_nor_bus_framework() -> None:
    found = [
        str(path)
        for path in tracked_files("services/*.py")
        if not conventions.is_edge(path) and conventions.imported(text_of(path)) & set(conventions.FRAMEWORKS)
    ]
    assert found == []


def test_transactions_are_started_by_the_one_helper_only() -> None:
    found = [
        str(path)
        for path in PYTHON_FILES
        if path != conventions.TRANSACTION_FILE and conventions.starts_transaction(text_of(path))
    ]
    assert found == []


def test_every_suppressed_complaint_has_its_reason_beside_it() -> None:
    found = [
        f"{path}:{line}" for path in PYTHON_FILES for line in conventions.suppressions_without_reason(text_of(path))
    ]
    assert found == []


def test_every_ignored_rule_has_its_reason_beside_it() -> None:
    text = text_of(Path("pyproject.toml"))
    lint = tomllib.loads(text)["tool"]["ruff"]["lint"]
    ignored = {*lint["ignore"], *(code for codes in lint["per-file-ignores"].values() for code in codes)}
    unexplained = {
        line.strip()
        for line in text.splitlines()
        if any(f'"{code}"' in line for code in ignored) and not line.partition("#")[2].strip()
    }
    assert unexplained == set()


def test_no_file_names_a_package_registry() -> None:
    this_folder = Path(__file__).parent.relative_to(ROOT)
    found = {
        str(path): addresses
        for path in tracked_files()
        if this_folder not in path.parents and (addresses := conventions.registry_addresses(text_of(path)))
    }
    assert found == {}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_every_pin_has_a_hash(lock: Path) -> None:
    pins = conventions.pins(lock.read_text())
    assert pins
    assert [pin for pin, has_hash in pins.items() if not has_hash] == []


def test_locks_name_no_address_and_no_local_path() -> None:
    assert [lock.name for lock in LOCKS if "://" in lock.read_text() or " @ " in lock.read_text()] == []
    assert [lock.name for lock in LOCKS if lock.read_text().splitlines()[1].strip() != "#    make lock"] == []


def test_a_package_has_one_version_everywhere() -> None:
    dev = set(conventions.pins((ROOT / "requirements" / "dev.lock").read_text()))
    names = {name for name, _ in dev}
    different = {
        f"{lock.name}: {name}=={version}"
        for lock in LOCKS
        if lock.stem not in {"clients", "deploy"}  # environments apart: what their packages need does not fit here
        for name, version in conventions.pins(lock.read_text())
        if name in names and (name, version) not in dev
    }
    assert different == set()


def test_there_is_a_lock_for_every_service() -> None:
    others = {"bootstrap", "dev", "clients", "deploy", "ops", "simulator", "site"}
    assert {lock.stem for lock in LOCKS} == {*others, *SERVICES}
