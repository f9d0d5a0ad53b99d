"""The examples of the OpenAPI document work against a fresh stack, in the order in which somebody would try them."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx2
from morpheus_gateway.openapi import document

from tests.e2e.house import House

Json = dict[str, Any]

ORDER = (
    *(
        "root",
        "health_check",
        "liveness_check",
        "readiness_check",
        "get_signing_keys",
        "list_models",
        "list_all_models",
        "get_model",
        "get_rated_bids",
    ),
    *("register_user", "login", "refresh_token", "get_account"),
    *("create_api_key", "get_api_keys", "get_current_api_key", "change_api_key", "rotate_api_key"),
    *("update_automation_settings", "get_automation_settings"),
    *(
        "quote_session",
        "create_model_session",
        "get_session",
        "list_sessions",
        "ping_session",
        "create_chat_completion",
    ),
    *("create_bid_session", "create_embeddings", "approve_spending", "close_session", "get_operation"),
    *("list_automation_decisions", "get_usage"),
    *("store_private_key", "get_private_key_status", "delete_private_key"),
    *("store_delegation", "get_user_delegations", "get_active_user_delegation", "delete_delegation"),
    *(
        "delete_api_key",
        "reset_password",
        "logout",
        "login",
        "change_password",
        "delete_user_account",
        "get_account_deletion",
    ),
)
ONE_OF_TWO = {("quote_session", "bid_id")}
"""Parameters that stand for another one."""


def operations() -> dict[str, tuple[str, str, Json]]:
    return {
        operation["operationId"]: (method, path, operation)
        for path, methods in document()["paths"].items()
        for method, operation in methods.items()
    }


class Reader:
    """Somebody who tries the document: sends its examples, with what earlier answers told in the places that are left open."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._told: dict[str, str] = {}

    def tries(self, name: str) -> Iterator[httpx2.Response]:
        """Send a request with each example of its body, or just the one."""
        method, path, operation = operations()[name]
        query, headers = {}, {}
        for parameter in operation.get("parameters", []):
            own = self._told.get(parameter["name"], parameter["example"])
            if parameter["in"] == "path":
                path = path.replace(f"{{{parameter['name']}}}", quote(str(own)))
            elif parameter["in"] == "query" and (name, parameter["name"]) not in ONE_OF_TWO:
                query[parameter["name"]] = parameter["example"]
        for scheme in operation["security"][:1]:
            (kind,) = scheme
            headers["Authorization"] = f"Bearer {self._told[kind]}"
        content = operation.get("requestBody", {}).get("content", {}).get("application/json", {"examples": {"": {}}})
        for example in content["examples"].values():
            body = example.get("value")
            if body is not None:
                body = {
                    field: self._told.get(field, value) if f"<{field}>" == value else value
                    for field, value in body.items()
                }
            yield self._house.http.request(
                method, self._house.stack.gateway_url + path, params=query, json=body, headers=headers
            )

    def learns(self, name: str, answer: httpx2.Response) -> None:
        """Note what later requests need."""
        match name:
            case "login" | "refresh_token":
                told = answer.json()
                self._told |= {"accessToken": told["access_token"], "refresh_token": told["refresh_token"]}
            case "create_api_key" | "rotate_api_key":
                told = answer.json()
                self._told |= {"apiKey": told["key"], "key_id": told["id"]}
            case "store_delegation":
                self._told["delegation_id"] = answer.json()["id"]


NOBODYS = {"get_operation": 404, "reset_password": 401, "get_account_deletion": 404}
"""What comes of examples whose id or token nobody has told."""


def test_every_example_works(house: House) -> None:
    assert set(ORDER) == operations().keys()
    reader = Reader(house)
    for name in ORDER:
        for number, answer in enumerate(reader.tries(name)):
            if name in NOBODYS:
                assert answer.status_code == NOBODYS[name], (name, answer.text)
            else:
                assert answer.is_success, (name, answer.text)
            if number == 0:
                reader.learns(name, answer)
