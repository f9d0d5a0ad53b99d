"""Balances, allowance, blocks, supply and budget (contract sections 2.3 and 2.5)."""

from aiohttp import web

from proxy_router_sim import params
from proxy_router_sim.errors import BadRequestError
from proxy_router_sim.routes.route import SIMULATOR, STRIKES, Route, json_response


async def balance(request: web.Request) -> web.Response:
    node = request.app[SIMULATOR].node
    seen = node.seen()
    mor, eth = seen.mor_balance(node.wallet), seen.eth_balance(node.wallet)
    return json_response({"mor": str(mor), "eth": str(eth)})


async def allowance(request: web.Request) -> web.Response:
    node = request.app[SIMULATOR].node
    spender = params.query_address(request, "spender")
    return json_response({"allowance": str(node.seen().allowance(node.wallet, spender))})


async def latest_block(request: web.Request) -> web.Response:
    simulator = request.app[SIMULATOR]
    return json_response({"block": simulator.chain.seen_height(simulator.clock.now())})


async def budget(request: web.Request) -> web.Response:
    node = request.app[SIMULATOR].node
    return json_response({"budget": str(node.seen().budget(node.clock.now()))})


async def supply(request: web.Request) -> web.Response:
    node = request.app[SIMULATOR].node
    return json_response({"supply": str(node.seen().supply(node.clock.now()))})


async def transactions(_request: web.Request) -> web.Response:
    """What the block explorer has, which here has nothing; page and limit are read by nobody (section 2.3)."""
    return json_response({"transactions": []})


async def approve(request: web.Request) -> web.Response:
    """Parameters come in the query; a body is ignored."""
    amount = request.query.get("amount")
    if amount is None:
        raise BadRequestError(
            "Key: 'QueryApprove.Amount' Error:Field validation for 'Amount' failed on the 'required' tag"
        )
    spender = params.query_address(request, "spender")
    node = request.app[SIMULATOR].node
    return json_response({"tx": await node.approve(spender, params.big_int(amount), request[STRIKES])})


ROUTES = [
    Route("GET", "/blockchain/balance", balance, "balance", "get_balance"),
    Route("GET", "/blockchain/allowance", allowance, "allowance", "get_allowance"),
    Route("GET", "/blockchain/latestBlock", latest_block, "latest_block", "get_latest_block"),
    Route("GET", "/blockchain/sessions/budget", budget, "budget", "get_budget"),
    Route("GET", "/blockchain/token/supply", supply, "supply", "get_supply"),
    Route("GET", "/blockchain/transactions", transactions, "transactions", "get_transactions"),
    Route("POST", "/blockchain/approve", approve, "approve", "approve"),
]
