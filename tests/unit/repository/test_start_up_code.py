"""What runs by itself when this environment's Python starts."""

import sysconfig
from pathlib import Path

SITE_PACKAGES = Path(sysconfig.get_path("purelib"))
KNOWN = {"distutils-precedence.pth": "setuptools, which `make install` builds one package with"}
"""Files that may run code, and whose they are."""


def start_up_code(folder: Path) -> dict[str, list[str]]:
    """Return the lines that Python runs at its start, by file (rule of the module `site`: they begin with import)."""
    found = {
        path.name: [line for line in path.read_text().splitlines() if line.startswith(("import ", "import\t"))]
        for path in folder.glob("*.pth")
    }
    return {name: lines for name, lines in found.items() if lines}


def test_a_planted_line_is_seen(tmp_path: Path) -> None:
    (tmp_path / "planted.pth").write_text("/some/folder\nimport os; os.system('true')\n")
    (tmp_path / "folder.pth").write_text("/some/folder\nimportant\n")
    assert start_up_code(tmp_path) == {"planted.pth": ["import os; os.system('true')"]}


def test_no_package_brought_code_that_runs_without_being_asked() -> None:
    """C40: the stolen releases of LiteLLM came with such a file; what is not known here is looked at before it is."""
    assert sorted(SITE_PACKAGES.glob("*.pth")) != []
    assert start_up_code(SITE_PACKAGES).keys() <= KNOWN.keys()
    assert not any((SITE_PACKAGES / name).exists() for name in ("sitecustomize.py", "usercustomize.py"))
