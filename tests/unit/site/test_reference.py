import hashlib
import json
import re
from pathlib import Path

import morpheus_site
import pytest
from fastapi.routing import APIRoute
from morpheus_gateway.routes import ROUTERS
from morpheus_site import reference

PACKAGE = Path(morpheus_site.__file__).parent
VENDOR = PACKAGE / "vendor"


def test_what_is_vendored_is_what_was_published() -> None:
    files = sorted((VENDOR / "swagger_ui").iterdir())
    digests = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" for path in files]
    assert digests == (VENDOR / "sha256.txt").read_text().splitlines()


def changing_operations() -> set[str]:
    return {
        f"{method} {route.path}"
        for router in ROUTERS
        for route in router.routes
        if isinstance(route, APIRoute) and route.include_in_schema
        for method in route.methods or ()
        if method not in {"GET", "HEAD"}
    }


def test_of_every_operation_that_changes_something_it_is_decided_whether_the_console_asks() -> None:
    assert not reference.QUESTIONS.keys() & reference.UNASKED
    assert reference.QUESTIONS.keys() | reference.UNASKED == changing_operations()


@pytest.mark.parametrize(
    "path", ["session/modelsession", "session/bidsession", "session/approve", "chat/completions", "embeddings"]
)
def test_the_console_asks_before_what_spends(path: str) -> None:
    assert f"POST /api/v1/{path}" in reference.QUESTIONS


def test_the_page_carries_its_rules_as_data_and_no_script() -> None:
    page = reference.html(try_it=True)
    [data] = re.findall(r'<script type="application/json" id="reference-settings">(.*?)</script>', page)
    assert json.loads(data) == {"tryIt": True, "questions": reference.QUESTIONS, "unasked": sorted(reference.UNASKED)}
    assert re.findall(r"<script(?![^>]*(?: src=|json))", page) == []
    assert '"tryIt": false' in reference.html(try_it=False)


def test_the_console_keeps_nothing_and_asks_nobody_else() -> None:
    script = (PACKAGE / "theme" / "static" / "reference.js").read_text()
    for setting in ("persistAuthorization: false", "validatorUrl: null", "queryConfigEnabled: false"):
        assert setting in script
    code = re.sub(r"^ *//.*$", "", script, flags=re.MULTILINE)
    assert not re.search(r"localStorage|sessionStorage|cookie|innerHTML|https?:", code)
