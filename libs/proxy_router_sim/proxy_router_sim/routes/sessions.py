"""Opening, reading and closing sessions (contract sections 2.6 to 2.8)."""

from aiohttp import web

from proxy_router_sim import params, views
from proxy_router_sim.agents import Purse
from proxy_router_sim.chain import Session
from proxy_router_sim.routes.route import AGENTS, SIMULATOR, STRIKES, USER, Route, json_response


def _purse(request: web.Request) -> Purse:
    """Only the admin spends without an allowance of its own (section 1)."""
    return request.app[AGENTS].purse(request[USER].name)


async def initiate(request: web.Request) -> web.Response:
    body = await params.json_body(request)
    user = params.address(params.text_field(body, "user"))
    provider = params.address(params.text_field(body, "provider"))
    bid_id = params.hash32(params.text_field(body, "bidId"))
    params.big_int(body.get("spend"))
    public_key, approval, signature = await request.app[SIMULATOR].node.initiate(
        user=user, provider=provider, bid_id=bid_id, endpoint=params.text_field(body, "providerUrl")
    )
    return json_response(
        {
            "message": public_key,
            "approval": approval.encode(),
            "approvalSig": signature,
            "user": user,
            "timestamp": approval.timestamp_ms,
        }
    )


async def open_with_approval(request: web.Request) -> web.Response:
    body = await params.json_body(request)
    approval, signature = params.text_field(body, "approval"), params.text_field(body, "approvalSig")
    stake, direct_payment = params.big_int(body.get("stake")), params.flag(body, "directPayment")
    session_id = await request.app[SIMULATOR].node.open_with_approval(
        approval=approval,
        signature=signature,
        stake=stake,
        direct_payment=direct_payment,
        strikes=request[STRIKES],
        purse=_purse(request),
    )
    return json_response({"sessionID": session_id})


async def open_by_bid(request: web.Request) -> web.Response:
    bid_id = params.path_id(request)
    seconds = params.duration(await params.json_body(request))
    opened = await request.app[SIMULATOR].node.open_by_bid(
        bid_id, seconds, strikes=request[STRIKES], purse=_purse(request)
    )
    return json_response({"sessionID": opened})


async def open_by_model(request: web.Request) -> web.Response:
    """``failover`` is accepted and without effect, as in the router (section 3)."""
    model_id = params.path_id(request)
    body = await params.json_body(request)
    seconds, direct_payment = params.duration(body), params.flag(body, "directPayment")
    params.flag(body, "failover")
    session_id = await request.app[SIMULATOR].node.open_by_model(
        model_id, seconds, direct_payment=direct_payment, strikes=request[STRIKES], purse=_purse(request)
    )
    return json_response({"sessionID": session_id})


async def session(request: web.Request) -> web.Response:
    found = request.app[SIMULATOR].node.session(params.path_id(request))
    return json_response({"session": views.session(found)})


def _page_of_user(request: web.Request) -> list[Session]:
    node = request.app[SIMULATOR].node
    user = params.query_address(request, "user")
    return params.page(request, node.seen().sessions_of(user))


async def sessions_of_user(request: web.Request) -> web.Response:
    return json_response({"sessions": [views.session(found) for found in _page_of_user(request)]})


async def session_ids_of_user(request: web.Request) -> web.Response:
    """A bare array."""
    return json_response([found.id for found in _page_of_user(request)])


async def sessions_of_provider(request: web.Request) -> web.Response:
    node = request.app[SIMULATOR].node
    provider = params.query_address(request, "provider")
    served = [found for found in node.seen().sessions.values() if found.provider == provider]
    return json_response({"sessions": [views.session(found) for found in params.page(request, served)]})


async def close(request: web.Request) -> web.Response:
    return json_response({"tx": await request.app[SIMULATOR].node.close(params.path_id(request), request[STRIKES])})


ROUTES = [
    Route("POST", "/proxy/sessions/initiate", initiate, "initiate", "initiate_session"),
    Route("POST", "/blockchain/sessions", open_with_approval, "open", "open_session"),
    Route("POST", "/blockchain/bids/{id}/session", open_by_bid, "open", "open_session"),
    Route("POST", "/blockchain/models/{id}/session", open_by_model, "open", "open_session"),
    Route("GET", "/blockchain/sessions/user", sessions_of_user, "sessions", "get_sessions"),
    Route("GET", "/blockchain/sessions/user/ids", session_ids_of_user, "session_ids", "get_sessions"),
    Route("GET", "/blockchain/sessions/provider", sessions_of_provider, "sessions", "get_sessions"),
    Route("GET", "/blockchain/sessions/{id}", session, "session", "get_sessions"),
    Route("POST", "/blockchain/sessions/{id}/close", close, "close", "close_session"),
]
