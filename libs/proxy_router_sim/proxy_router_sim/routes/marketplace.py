"""Models, bids and providers, and the ping of a provider (contract section 2.4)."""

from aiohttp import web

from proxy_router_sim import params, views
from proxy_router_sim.marketplace import NO_BID
from proxy_router_sim.routes.route import SIMULATOR, Route, json_response
from proxy_router_sim.routes.system import VERSION


async def models(request: web.Request) -> web.Response:
    listed = params.page(
        request, list(request.app[SIMULATOR].node.marketplace.models.values()), unlimited_by_default=True
    )
    return json_response({"models": [views.model(model) for model in listed]})


async def _model_bids(request: web.Request, *, active_only: bool) -> web.Response:
    bids = request.app[SIMULATOR].node.marketplace.model_bids(params.path_id(request), active_only=active_only)
    return json_response({"bids": [views.bid(bid) for bid in params.page(request, bids)]})


async def model_bids(request: web.Request) -> web.Response:
    return await _model_bids(request, active_only=False)


async def active_model_bids(request: web.Request) -> web.Response:
    return await _model_bids(request, active_only=True)


async def rated_bids(request: web.Request) -> web.Response:
    rated = request.app[SIMULATOR].node.marketplace.rated_bids(params.path_id(request))
    return json_response({"bids": [views.rated_bid(bid, score) for bid, score in rated]})


async def bid(request: web.Request) -> web.Response:
    """An unknown id is 200 with a bid of zeros."""
    found = request.app[SIMULATOR].node.marketplace.bids.get(params.path_id(request), NO_BID)
    return json_response({"bid": views.bid(found)})


async def providers(request: web.Request) -> web.Response:
    listed = params.page(
        request, list(request.app[SIMULATOR].node.marketplace.providers.values()), unlimited_by_default=True
    )
    return json_response({"providers": [views.provider(provider) for provider in listed]})


async def _provider_bids(request: web.Request, *, active_only: bool) -> web.Response:
    provider = params.address(request.match_info["address"])
    bids = request.app[SIMULATOR].node.marketplace.provider_bids(provider, active_only=active_only)
    return json_response({"bids": [views.bid(bid) for bid in params.page(request, bids)]})


async def provider_bids(request: web.Request) -> web.Response:
    return await _provider_bids(request, active_only=False)


async def active_provider_bids(request: web.Request) -> web.Response:
    return await _provider_bids(request, active_only=True)


async def ping(request: web.Request) -> web.Response:
    body = await params.json_body(request)
    provider = params.address(params.text_field(body, "providerAddr"))
    endpoint = params.text_field(body, "providerUrl")
    took = request.app[SIMULATOR].providers.ping(provider=provider, endpoint=endpoint)
    return json_response({"ping": took, "version": VERSION})


ROUTES = [
    Route("GET", "/blockchain/models", models, "models", "get_models"),
    Route("GET", "/blockchain/models/{id}/bids", model_bids, "model_bids", "get_bids"),
    Route("GET", "/blockchain/models/{id}/bids/active", active_model_bids, "model_bids", "get_bids"),
    Route("GET", "/blockchain/models/{id}/bids/rated", rated_bids, "rated_bids", "get_bids"),
    Route("GET", "/blockchain/bids/{id}", bid, "bid", "get_bids"),
    Route("GET", "/blockchain/providers", providers, "providers", "get_providers"),
    Route("GET", "/blockchain/providers/{address}/bids", provider_bids, "provider_bids", "get_bids"),
    Route("GET", "/blockchain/providers/{address}/bids/active", active_provider_bids, "provider_bids", "get_bids"),
    Route("POST", "/proxy/provider/ping", ping, "ping", None),
]
