import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from benchmarks import held_back, report
from benchmarks.charts import bars
from benchmarks.findings import Finding, Outcome, Verdict

MET = Finding("one", "a figure", "≤ 2 ms", "1 ms", Verdict.MET)
MISSED = Finding("two", "another | figure", "≥ 5", "4", Verdict.MISSED, "a\nnote")
OPEN = Finding("three", "a third", "0", "–", Verdict.NOT_JUDGED, "Portkey's is not there")


def test_every_finding_is_a_row_and_what_is_missed_stands_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(held_back.HELD_BACK, "one", "said of a bar that is met again")
    rows = report.table([MET, MISSED, OPEN]).splitlines()[2:]
    assert rows == [
        "| a figure | ≤ 2 ms | 1 ms | met |  |",
        f"| another \\| figure | ≥ 5 | 4 | **MISSED** | a note; {held_back.UNKNOWN} |",
        "| a third | 0 | – | not judged | Portkey's is not there |",
    ]


def test_what_holds_a_figure_back_stands_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(held_back.HELD_BACK, "two", "each frame is parsed twice")
    assert "| a note; each frame is parsed twice |" in report.table([MISSED])


def test_the_summary_counts_what_is_met_missed_and_open() -> None:
    assert report.summary([MET, MISSED, OPEN]) == "1 of 3 bars are met, 1 is missed, 1 is not judged by this run."
    assert report.summary([MET]) == "1 of 1 bars are met, 0 are missed, 0 are not judged by this run."


def test_the_report_says_who_was_missing_and_shows_only_charts_it_has_written(tmp_path: Path) -> None:
    latency = {"added_p50_ms": {"ours": 2.0, "floor": -0.1}}
    file = tmp_path / "docs" / "benchmarks.md"
    run = report.Run(
        form="full",
        rounds=9,
        when="1 January 2030",
        machine={"Python": "3.11.7"},
        missing={"portkey": "npm is not there"},
        outcomes={"latency": Outcome([MET], latency), "gaps": Outcome([MISSED, OPEN])},
    )
    report.write(file, run)
    text = file.read_text()
    assert "- **portkey was not measured**: npm is not there" in text
    assert "| Python | 3.11.7 |" in text
    assert "Form `full`, 9 rounds, 1 January 2030." in text
    pictures = re.findall(r"\((images/[^)]+)\)", text)
    assert pictures == ["images/benchmark-latency.svg"]
    assert all((file.parent / picture).is_file() for picture in pictures)
    assert "{" not in text


def test_a_run_that_was_kept_makes_the_same_report() -> None:
    run = report.Run(
        "full", 9, "today", {"Python": "3"}, {}, {"gaps": Outcome([MET, MISSED, OPEN], {"p99_ms": {"ours": [1.5]}})}
    )
    assert report.Run.from_json(run.to_json()) == run


def test_a_chart_is_xml_with_a_bar_for_each_value_as_long_as_it_is_large() -> None:
    drawn = ET.fromstring(  # noqa: S314 - our own text
        bars("a < b", {"ours": 50.0, "floor": 200.0, "x&y": 0.0}, unit="ms")
    )
    names = [text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert names[0] == "a < b"
    assert names[1::2] == ["floor (aiohttp)", "Morpheus", "x&y"]
    assert names[2::2] == ["200 ms", "50 ms", "0 ms"]
    lengths = [float(rect.attrib["width"]) for rect in drawn.iter("{http://www.w3.org/2000/svg}rect")][1:]
    assert lengths[0] == pytest.approx(4 * lengths[1], rel=0.01)
    assert lengths[2] == 1.0
