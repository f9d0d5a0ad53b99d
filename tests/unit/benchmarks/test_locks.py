"""Those we measure ourselves against come from locks, as all else does, and never into anything of ours."""

import json
import re

from benchmarks.peers import HERE, LITELLM, LITELLM_LOCK, PORTKEY
from tests.unit.repository import conventions
from tests.unit.repository.conventions import ROOT

MALICIOUS = ("1.82.7", "1.82.8")


def test_litellm_is_the_chosen_version_with_a_hash_for_every_package() -> None:
    pins = conventions.pins(LITELLM_LOCK.read_text())
    assert [pin for pin, has_hash in pins.items() if not has_hash] == []
    assert [version for name, version in pins if name == "litellm"] == [LITELLM]
    assert LITELLM not in MALICIOUS
    assert "://" not in LITELLM_LOCK.read_text()


def test_portkey_is_the_chosen_version_with_a_hash_for_every_package() -> None:
    packages = json.loads((HERE / "package-lock.json").read_text())["packages"]
    own = packages.pop("")
    assert own["dependencies"] == {"@portkey-ai/gateway": PORTKEY}
    assert packages["node_modules/@portkey-ai/gateway"]["version"] == PORTKEY
    assert [name for name, package in packages.items() if not package.get("integrity")] == []
    assert [name for name, package in packages.items() if "resolved" in package] == []


def test_nothing_of_ours_depends_on_litellm() -> None:
    files = [*ROOT.glob("*/*/pyproject.toml"), ROOT / "pyproject.toml", *(ROOT / "requirements").glob("*.lock")]
    assert files
    assert [str(file) for file in files if re.search(r"\blitellm\b", file.read_text(), re.IGNORECASE)] == []
