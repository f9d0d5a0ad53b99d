"""Every code of the catalogue is produced by a test, and no test expects one that is not there."""

import ast
from functools import cache
from pathlib import Path

from morpheus_common.errors import CATALOGUE

from tests.unit.repository.conventions import ROOT
from tests.unit.repository.error_codes import compared, expected

PROVIDERS = {"context_length_exceeded"}
"""Codes of providers, which are passed on."""


@cache
def trees() -> dict[str, ast.Module]:
    paths = [path for path in sorted((ROOT / "tests").rglob("*.py")) if path != Path(__file__)]
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def test_what_a_test_expects_is_told_from_what_it_makes() -> None:
    made = 'FAILS = [ApiError("one")]\ndef test_it():\n    fake(code="two")\n    raise_it("three")\n'
    assert expected(ast.parse(made)) == set()
    told = (
        'TABLE = [(404, "a")]\n@pytest.mark.parametrize("code", ["b"])\ndef test_it(code):\n'
        '    assert error.code == "c"\n    check_error(answer, 400, "d")\n    for code in ("e",):\n        pass\n'
        '    with pytest.raises(ApiError, match="f"):\n        pass\n'
    )
    assert expected(ast.parse(told)) == {"a", "b", "c", "d", "e", "f", "code"}
    held = 'assert error.code == "a"\nassert (x.status, x["error"]["code"]) == (400, "b")\nassert x["param"] == "c"\n'
    assert compared(ast.parse(held + 'assert x["code"] in {"d"}\nassert said.code == 0\n')) == {"a", "b", "d"}


def test_every_code_of_the_catalogue_is_produced_by_a_test() -> None:
    found = {word for tree in trees().values() for word in expected(tree)}
    assert sorted(CATALOGUE.keys() - found) == []


def test_no_test_expects_a_code_that_the_catalogue_lacks() -> None:
    known = CATALOGUE.keys() | PROVIDERS
    strange = {path: sorted(compared(tree) - known) for path, tree in trees().items()}
    assert {path: words for path, words in strange.items() if words} == {}
