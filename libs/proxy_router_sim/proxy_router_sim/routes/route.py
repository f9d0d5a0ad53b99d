"""How a route is declared, and how its handler reaches the simulator."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from proxy_router_sim import gojson
from proxy_router_sim.agents import Agents
from proxy_router_sim.auth import User
from proxy_router_sim.chats import Chats
from proxy_router_sim.faults import Faults, Strikes
from proxy_router_sim.forms import Forms
from proxy_router_sim.prompts import Prompts
from proxy_router_sim.simulator import Simulator

SIMULATOR = web.AppKey("simulator", Simulator)
FAULTS = web.AppKey("faults", Faults)
AGENTS = web.AppKey("agents", Agents)
CHATS = web.AppKey("chats", Chats)
ETH_NODES = web.AppKey("eth_nodes", list[str])
FORMS = web.AppKey("forms", Forms)
PROMPTS = web.AppKey("prompts", Prompts)
USER = web.RequestKey("user", User)
STRIKES = web.RequestKey("strikes", Strikes)
"""The faults that may strike a call to the chain on its way; set for the kinds that have stages."""
CONTENT_TYPE = web.RequestKey("content_type", str)
"""Set by handlers that choose the type of the answer before they know whether it will be an error."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    """A route; ``kind`` is its name for faults, ``permission`` None for routes without auth."""

    method: str
    path: str
    handler: Handler
    kind: str
    permission: str | None


def json_response(value: Any, status: int = 200, content_type: str | None = None) -> web.Response:
    """A JSON answer as gin writes it."""
    headers = {"Content-Type": content_type or "application/json; charset=utf-8"}
    return web.Response(body=gojson.encode(value), status=status, headers=headers)


async def described(request: web.Request) -> str:
    """Path, query, session and body of a call in lowercase: where a fault looks for what it is to match."""
    return f"{request.path_qs} {request.headers.get('session_id', '')} {(await request.read()).decode(errors='replace')}".lower()
