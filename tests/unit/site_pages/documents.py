"""A small OpenAPI document in which everything stands that a page could stumble over."""

from typing import Any

Json = dict[str, Any]

ODD = "either `a|b` or <script>alert(1)</script> | a lone ` tick"


def document() -> Json:
    """Return a document of one tag with one operation that has everything, and one that has nothing."""
    answer = {
        "description": "It is `made`.",
        "headers": {
            "X-Request-Id": {"description": "its id"},
            "Retry-After": {"$ref": "#/components/headers/Retry-After"},
        },
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Thing"}}},
    }
    refused = {
        "description": "no",
        "content": {"application/json": {"schema": {}, "examples": {"key_not_found": {}, "invalid_token": {}}}},
    }
    return {
        "tags": [{"name": "auth", "description": "Things & others."}],
        "paths": {
            "/api/v1/things/{thing_id}": {
                "post": {
                    "operationId": "make_odd_thing",
                    "summary": "Make Odd Thing",
                    "description": "Make a thing <b>now</b>. It costs nothing.\n\nSecond paragraph: `<kept>`.",
                    "tags": ["auth"],
                    "security": [{"accessToken": []}],
                    "parameters": [
                        {
                            "name": "thing_id",
                            "in": "path",
                            "required": True,
                            "schema": {"type": "string", "maxLength": 64},
                            "description": ODD,
                            "example": "<key_id>",
                        },
                        {
                            "name": "mode",
                            "in": "query",
                            "required": True,
                            "schema": {"enum": ["a|b", "c`d"]},
                            "example": "a|b",
                        },
                        {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1}, "example": 20},
                    ],
                    "requestBody": {
                        "required": True,
                        "content": {
                            "application/json": {
                                "schema": {"$ref": "#/components/schemas/Wish"},
                                "examples": {"first": {"value": {"password": "x", "price": '$5 `it\'s` \\ "so"'}}},
                            }
                        },
                    },
                    "responses": {"201": answer, "404": refused, "401": {"$ref": "#/components/responses/no"}},
                }
            },
            "/bare": {
                "get": {"operationId": "look", "summary": "Look", "tags": ["auth"], "responses": {"204": {}}},
            },
        },
        "components": {
            "headers": {"Retry-After": {"description": "seconds to wait"}},
            "responses": {"no": refused},
            "schemas": {
                "Wish": {
                    "type": "object",
                    "description": "What is wanted.",
                    "required": ["password"],
                    "properties": {
                        "password": {"type": "string", "minLength": 8, "maxLength": 1024},
                        "price": {
                            "anyOf": [{"type": "string", "pattern": "^a|b$"}, {"type": "null"}],
                            "description": ODD,
                        },
                    },
                },
                "Thing": {
                    "type": "object",
                    "properties": {
                        "id": {"type": "string"},
                        "made_at": {"type": "string", "format": "date-time"},
                        "kind": {"$ref": "#/components/schemas/Kind"},
                        "parts": {"type": "array", "items": {"$ref": "#/components/schemas/Part"}},
                    },
                },
                "Kind": {"type": "string", "enum": ["big", "small"], "description": "How big."},
                "Part": {"type": "object", "description": "A part.", "properties": {"weight": {"type": "number"}}},
            },
        },
    }
