import json
from pathlib import Path

import pytest
from morpheus_site.old_links import PUBLISHED, NoSuccessor, moved_pages, operation_pages


def test_every_address_that_was_published_is_known_by_its_operation() -> None:
    # 48 pages beside the first one, some of them twice under two names
    assert len(PUBLISHED) == 48
    assert PUBLISHED["auth/register_user_api_v1_auth_register_post"] == "POST /api/v1/auth/register"
    assert PUBLISHED["models/list_models_api_v1_models__get"] == "GET /api/v1/models"


def test_an_address_leads_to_the_page_of_its_operation() -> None:
    pages = {operation: f"api/{number}" for number, operation in enumerate(sorted(set(PUBLISHED.values())))}
    moved = moved_pages(pages, pages.values())
    assert moved.keys() == PUBLISHED.keys()
    assert moved["auth/api/v1/auth/login"] == pages["POST /api/v1/auth/login"]


def test_a_published_address_without_a_page_stops_the_build() -> None:
    pages = {operation: "api/page" for operation in PUBLISHED.values() if operation != "GET /health"}
    with pytest.raises(NoSuccessor, match="/docs/unknown/health"):
        moved_pages(pages, ["api/page"])
    with pytest.raises(NoSuccessor):
        moved_pages(dict.fromkeys(PUBLISHED.values(), "api/page"), [])


def test_a_page_of_an_operation_is_named_by_tag_and_id(tmp_path: Path) -> None:
    document = {"paths": {"/a": {"get": {"tags": ["auth"], "operationId": "get_api_keys"}}}}
    (tmp_path / "openapi.json").write_text(json.dumps(document))
    assert operation_pages(tmp_path / "openapi.json") == {"GET /a": "api/auth/get-api-keys"}
