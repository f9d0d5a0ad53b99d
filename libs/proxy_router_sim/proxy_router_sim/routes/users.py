"""Users of the router and what agents among them may spend (contract section 1)."""

from typing import Any

from aiohttp import web

from proxy_router_sim import params
from proxy_router_sim.auth import User
from proxy_router_sim.errors import BadRequestError
from proxy_router_sim.routes.route import AGENTS, SIMULATOR, Route, json_response


def _user(body: dict[str, Any]) -> User:
    perms = body.get("perms") or []
    if not isinstance(perms, list) or not all(isinstance(perm, str) for perm in perms):
        raise BadRequestError("json: cannot unmarshal into Go struct field .perms of type []string")
    return User.make(params.text_field(body, "username"), params.text_field(body, "password"), perms)


def _done() -> web.Response:
    return json_response({"result": True})


async def add_user(request: web.Request) -> web.Response:
    """The field of permissions is ``perms``, whatever the router's documentation calls it."""
    request.app[SIMULATOR].users.add(_user(await params.json_body(request)))
    return _done()


async def remove_user(request: web.Request) -> web.Response:
    request.app[AGENTS].remove(params.text_field(await params.json_body(request), "username"))
    return _done()


async def request_user(request: web.Request) -> web.Response:
    """Without credentials: it has no effect before somebody confirms it."""
    body = await params.json_body(request)
    wanted = body.get("allowances") or {}
    if not isinstance(wanted, dict):
        raise BadRequestError("json: cannot unmarshal into Go struct field .allowances of type map[string]lib.BigInt")
    request.app[AGENTS].request(_user(body), {token: params.big_int(amount) for token, amount in wanted.items()})
    return _done()


async def confirm_user(request: web.Request) -> web.Response:
    body = await params.json_body(request)
    request.app[AGENTS].decide(params.text_field(body, "username"), confirm=params.flag(body, "confirm"))
    return _done()


async def agents(request: web.Request) -> web.Response:
    return json_response(
        {
            "agents": [
                {
                    "username": agent.user.name,
                    "perms": sorted(agent.user.permissions),
                    "isConfirmed": agent.confirmed,
                    "allowances": {token: str(amount) for token, amount in agent.allowances.items()},
                }
                for agent in request.app[AGENTS].all()
            ]
        }
    )


async def request_allowance(request: web.Request) -> web.Response:
    body = await params.json_body(request)
    name, token = params.text_field(body, "username"), params.text_field(body, "token")
    request.app[AGENTS].ask_allowance(name, token, params.big_int(body.get("allowance")))
    return _done()


async def allowance_requests(request: web.Request) -> web.Response:
    asked = request.app[AGENTS].allowance_requests()
    listed = [{"username": name, "token": token, "allowance": str(amount)} for name, token, amount in asked]
    return json_response({"requests": listed})


async def confirm_allowance(request: web.Request) -> web.Response:
    body = await params.json_body(request)
    name, token = params.text_field(body, "username"), params.text_field(body, "token")
    request.app[AGENTS].decide_allowance(name, token, confirm=params.flag(body, "confirm"))
    return _done()


async def revoke_allowance(request: web.Request) -> web.Response:
    body = await params.json_body(request)
    request.app[AGENTS].revoke_allowance(params.text_field(body, "username"), params.text_field(body, "token"))
    return _done()


async def transactions(request: web.Request) -> web.Response:
    limit = request.query.get("limit")
    if limit is None:
        raise BadRequestError(
            "Key: 'CursorQuery.Limit' Error:Field validation for 'Limit' failed on the 'required' tag"
        )
    cursor = request.query.get("cursor", "")
    hashes, following = request.app[AGENTS].transactions(request.match_info["username"], cursor, params.uint8(limit))
    return json_response({"txHashes": hashes, "nextCursor": following})


async def cookie_path(_request: web.Request) -> web.Response:
    return json_response({"path": "/app/.cookie"})


ROUTES = [
    Route("POST", "/auth/users", add_user, "users", "add_user"),
    Route("DELETE", "/auth/users", remove_user, "users", "remove_user"),
    Route("GET", "/auth/users", agents, "users", "agent_requests"),
    Route("POST", "/auth/users/request", request_user, "users", None),
    Route("POST", "/auth/users/confirm", confirm_user, "users", "agent_requests"),
    Route("GET", "/auth/users/{username}/txs", transactions, "users", "agent_requests"),
    Route("POST", "/auth/allowance/requests", request_allowance, "users", "request_allowance"),
    Route("GET", "/auth/allowance/requests", allowance_requests, "users", "agent_requests"),
    Route("POST", "/auth/allowance/confirm", confirm_allowance, "users", "agent_requests"),
    Route("POST", "/auth/allowance/revoke", revoke_allowance, "users", "agent_requests"),
    Route("GET", "/auth/cookie/path", cookie_path, "users", None),
]
