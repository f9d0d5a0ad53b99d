"""Golden files: what is expected to the byte, in a form that people can read. `--update-golden` writes them anew."""

from pathlib import Path

FOLDER = Path(__file__).parent
TITLE = "== "


class Golden:
    """The golden files of one folder. A file has outcomes, each below the titles of all cases that come out so."""

    def __init__(self, folder: str, *, update: bool) -> None:
        self._folder = FOLDER / folder
        self.update = update

    def compare(self, name: str, outcomes: dict[str, str]) -> None:
        """Hold the outcomes of cases, by title, against the file of this name. It may have more."""
        path = self._folder / f"{name.replace(' ', '_')}.txt"
        if self.update:
            path.write_text(_written(outcomes))
        expected = _read(path.read_text())
        assert {title: expected.get(title) for title in outcomes} == outcomes

    def titles(self) -> dict[str, set[str]]:
        """Return the titles that there are in each file."""
        return {path.stem.replace("_", " "): set(_read(path.read_text())) for path in self._folder.glob("*.txt")}


def _written(outcomes: dict[str, str]) -> str:
    alike: dict[str, list[str]] = {}
    for title, outcome in outcomes.items():
        alike.setdefault(outcome, []).append(f"{TITLE}{title}\n")
    return "\n".join(f"{''.join(titles)}{outcome}\n" for outcome, titles in alike.items())


def _read(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    titles: list[str] = []
    lines: list[str] = []
    for line in [*text.splitlines(), TITLE]:
        if line.startswith(TITLE):
            if lines:
                found |= dict.fromkeys(titles, "\n".join(lines).rstrip("\n"))
                titles, lines = [], []
            titles.append(line.removeprefix(TITLE))
        else:
            lines.append(line)
    return found
