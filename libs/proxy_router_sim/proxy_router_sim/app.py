"""The HTTP application: every route with its auth and faults, and errors in the router's words."""

import logging
import re
import secrets

from aiohttp import web

from proxy_router_sim import gojson
from proxy_router_sim.agents import Agents
from proxy_router_sim.auth import authorize
from proxy_router_sim.chats import Chats
from proxy_router_sim.errors import ConnectionCutError, ModelError, RouterError
from proxy_router_sim.faults import CALL_ACTIONS, STAGES, Fault, Strikes, strike
from proxy_router_sim.forms import Forms
from proxy_router_sim.prompts import Prompts
from proxy_router_sim.routes import (
    audio,
    blockchain,
    chain,
    chats,
    controls,
    inference,
    marketplace,
    sessions,
    simulation,
    system,
    users,
)
from proxy_router_sim.routes.route import (
    AGENTS,
    CHATS,
    CONTENT_TYPE,
    ETH_NODES,
    FAULTS,
    FORMS,
    PROMPTS,
    SIMULATOR,
    STRIKES,
    USER,
    Handler,
    Route,
    described,
    json_response,
)
from proxy_router_sim.simulator import Simulator

ROUTES = [
    *system.ROUTES,
    *blockchain.ROUTES,
    *marketplace.ROUTES,
    *sessions.ROUTES,
    *inference.ROUTES,
    *audio.ROUTES,
    *chats.ROUTES,
    *simulation.ROUTES,
    *controls.ROUTES,
    *users.ROUTES,
    *chain.ROUTES,
]
_LARGEST_BODY = 64 * 1024 * 1024
"""The router has no limit; this one keeps a mistake from filling the memory."""
_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS",
    "Access-Control-Allow-Headers": "session_id,model_id,chat_id,Authorization,content-type",
}
"""Contract section 0, CORS."""
_PRINTABLE = re.compile(r"[\x20-\x7e]{1,200}")

logger = logging.getLogger(__name__)


def create_app(simulator: Simulator) -> web.Application:
    """The application of a simulator. It starts nothing in the background: see ``node.closer.run``."""
    app = web.Application(client_max_size=_LARGEST_BODY, middlewares=[_answer_errors])
    app[SIMULATOR] = simulator
    app[AGENTS] = Agents(simulator.users, simulator.chain.mor_token)
    app[CHATS] = Chats()
    app[ETH_NODES] = list(system.DEFAULT_ETH_NODES)
    app[FORMS] = Forms()
    app[PROMPTS] = Prompts()
    app[FAULTS] = simulator.faults
    app[FAULTS].know(route.kind for route in ROUTES if route.kind != "sim")
    for route in ROUTES:
        app.router.add_route(route.method, route.path, _guarded(route))
    app.on_response_prepare.append(_add_headers)
    return app


def _guarded(route: Route) -> Handler:
    """The handler behind its auth and the faults armed for it."""

    async def handle(request: web.Request) -> web.StreamResponse:
        if route.permission is not None:
            user = request.app[SIMULATOR].users.authenticate(request.headers.get("Authorization"))
            authorize(user, route.permission)
            request[USER] = user
        faults = request.app[FAULTS]
        if route.kind in STAGES:
            request[STRIKES] = Strikes(faults, route.kind, await described(request))
        if not faults.wanted(route.kind):
            return await route.handler(request)
        fault = faults.take(route.kind, CALL_ACTIONS, await described(request))
        if fault is None:
            return await route.handler(request)
        try:
            return await _struck(route, request, fault)
        finally:
            faults.done(fault)

    return handle


async def _struck(route: Route, request: web.Request, fault: Fault) -> web.StreamResponse:
    if not fault.after_work:
        await strike(fault)
        return await route.handler(request)
    response = await route.handler(request)
    if not response.prepared:
        await strike(fault)
    return response


@web.middleware
async def _answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except RouterError as error:
        status, body = request.app[FORMS].answer(error)
        return json_response(body, status, request.get(CONTENT_TYPE))
    except ModelError as error:
        status, body = request.app[FORMS].answer(error)
        return json_response(body, status, "application/json")
    except ConnectionCutError:
        if request.transport is not None:
            request.transport.abort()
    except ConnectionResetError:
        logger.info("%s %s: the caller went away", request.method, request.path)
    except (web.HTTPNotFound, web.HTTPMethodNotAllowed):
        if request.method == "OPTIONS" and "Origin" in request.headers:
            return web.Response(status=204, headers=_PREFLIGHT)
        return web.Response(text="404 page not found", status=404, headers={"Content-Type": "text/plain"})
    return web.Response(body=gojson.encode(None))


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """X-Request-Id: the caller's, or eight hex digits; and any origin may read."""
    if "Origin" in request.headers:
        response.headers["Access-Control-Allow-Origin"] = "*"
    given = request.headers.get("X-Request-Id", "")
    response.headers["X-Request-Id"] = given if _PRINTABLE.fullmatch(given) else secrets.token_hex(4)
