"""Addresses that the documentation had before, each with the operation it told of. They were published, so they stay good."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

PUBLISHED: Mapping[str, str] = {
    "auth/api/v1/auth/delegation/active": "GET /api/v1/auth/delegation/active",
    "auth/api/v1/auth/delegation/delegation_id": "DELETE /api/v1/auth/delegation/{delegation_id}",
    "auth/api/v1/auth/delegation/get": "GET /api/v1/auth/delegation",
    "auth/api/v1/auth/delegation/post": "POST /api/v1/auth/delegation",
    "auth/api/v1/auth/keys/get": "GET /api/v1/auth/keys",
    "auth/api/v1/auth/keys/key_id": "DELETE /api/v1/auth/keys/{key_id}",
    "auth/api/v1/auth/keys/post": "POST /api/v1/auth/keys",
    "auth/api/v1/auth/login": "POST /api/v1/auth/login",
    "auth/api/v1/auth/private-key/delete": "DELETE /api/v1/auth/private-key",
    "auth/api/v1/auth/private-key/get": "GET /api/v1/auth/private-key",
    "auth/api/v1/auth/private-key/post": "POST /api/v1/auth/private-key",
    "auth/api/v1/auth/refresh": "POST /api/v1/auth/refresh",
    "auth/api/v1/auth/register/delete": "DELETE /api/v1/auth/register",
    "auth/api/v1/auth/register/post": "POST /api/v1/auth/register",
    "auth/create_api_key_api_v1_auth_keys_post": "POST /api/v1/auth/keys",
    "auth/delete_api_key_api_v1_auth_keys__key_id__delete": "DELETE /api/v1/auth/keys/{key_id}",
    "auth/delete_private_key_api_v1_auth_private_key_delete": "DELETE /api/v1/auth/private-key",
    "auth/get_api_keys_api_v1_auth_keys_get": "GET /api/v1/auth/keys",
    "auth/get_private_key_status_api_v1_auth_private_key_get": "GET /api/v1/auth/private-key",
    "auth/login_api_v1_auth_login_post": "POST /api/v1/auth/login",
    "auth/refresh_token_api_v1_auth_refresh_post": "POST /api/v1/auth/refresh",
    "auth/register_user_api_v1_auth_register_post": "POST /api/v1/auth/register",
    "auth/store_private_key_api_v1_auth_private_key_post": "POST /api/v1/auth/private-key",
    "automation/api/v1/automation/settings/get": "GET /api/v1/automation/settings",
    "automation/api/v1/automation/settings/put": "PUT /api/v1/automation/settings",
    "automation/get_automation_settings_api_v1_automation_settings_get": "GET /api/v1/automation/settings",
    "automation/update_automation_settings_api_v1_automation_settings_put": "PUT /api/v1/automation/settings",
    "chat/api/v1/chat/completions": "POST /api/v1/chat/completions",
    "chat/create_chat_completion_api_v1_chat_completions_post": "POST /api/v1/chat/completions",
    "models/api/v1/models": "GET /api/v1/models",
    "models/api/v1/models/allmodels": "GET /api/v1/models/allmodels",
    "models/api/v1/models/ratedbids": "GET /api/v1/models/ratedbids",
    "models/get_rated_bids_api_v1_models_ratedbids_get": "GET /api/v1/models/ratedbids",
    "models/list_models_api_v1_models__get": "GET /api/v1/models",
    "session/api/v1/session/approve": "POST /api/v1/session/approve",
    "session/api/v1/session/bidsession": "POST /api/v1/session/bidsession",
    "session/api/v1/session/closesession": "POST /api/v1/session/closesession",
    "session/api/v1/session/modelsession": "POST /api/v1/session/modelsession",
    "session/api/v1/session/pingsession": "POST /api/v1/session/pingsession",
    "session/approve_spending_api_v1_session_approve_post": "POST /api/v1/session/approve",
    "session/close_session_api_v1_session_closesession_post": "POST /api/v1/session/closesession",
    "session/create_bid_session_api_v1_session_bidsession_post": "POST /api/v1/session/bidsession",
    "session/create_model_session_api_v1_session_modelsession_post": "POST /api/v1/session/modelsession",
    "session/ping_session_api_v1_session_pingsession_post": "POST /api/v1/session/pingsession",
    "unknown": "GET /",
    "unknown/health": "GET /health",
    "unknown/health_check_health_get": "GET /health",
    "unknown/root__get": "GET /",
}
"""The pages of the earlier documentation, without the `/docs/` in front: method and path of what each described."""


class NoSuccessor(Exception):
    """A published address would lead nowhere."""


def operation_pages(openapi: Path) -> dict[str, str]:
    """Return for each operation of the committed OpenAPI document, by method and path, the name of its page."""
    document = json.loads(openapi.read_text())
    return {
        f"{method.upper()} {path}": f"api/{operation['tags'][0]}/{operation['operationId'].replace('_', '-')}"
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }


def moved_pages(pages: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """Return the page's name for each published one. Raises `NoSuccessor`."""
    there = set(names)
    moved = {}
    for old, operation in PUBLISHED.items():
        page = pages.get(operation)
        if page not in there:
            raise NoSuccessor(f"/docs/{old} was published and told of {operation}, which has no page ({page})")
        moved[old] = page
    return moved
