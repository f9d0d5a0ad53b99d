"""The simulator's own controls under /sim: no auth, no counterpart in the router."""

from aiohttp import web

from proxy_router_sim import params, views
from proxy_router_sim.errors import BadRequestError
from proxy_router_sim.routes.chain import chain_state
from proxy_router_sim.routes.route import FAULTS, SIMULATOR, Route, json_response

_LONGEST_ADVANCE = 400 * 86_400


async def state(request: web.Request) -> web.Response:
    """Counters, and the chain as it is; amounts are strings of wei, because not every reader has big integers."""
    simulator = request.app[SIMULATOR]
    node, chain = simulator.node, simulator.chain
    node.sync()
    ledger = chain.ledger
    sessions = ledger.sessions_of(node.wallet)
    return json_response(
        {
            "now": simulator.clock.now(),
            "block": chain.height(simulator.clock.now()),
            "wallet": node.wallet,
            "diamond": chain.diamond,
            "mor": str(ledger.mor_balance(node.wallet)),
            "eth": str(ledger.eth_balance(node.wallet)),
            "allowance": str(ledger.allowance(node.wallet, chain.diamond)),
            "staked": str(sum(session.stake for session in sessions if not session.closed_at)),
            "held": [{"amount": str(hold.amount), "release_at": hold.release_at} for hold in ledger.holds(node.wallet)],
            **chain_state(simulator),
            "open_count": sum(not session.closed_at for session in sessions),
            "opens_total": len(sessions),
            "prompts_served": node.counters["prompts_served"],
            "max_unfinished_prompts_of_a_session": node.counters["max_unfinished_prompts_of_a_session"],
            "max_concurrent_chain_calls": node.counters["max_concurrent_chain_calls"],
            "counters": dict(node.counters),
            "offline_providers": simulator.providers.offline,
            "sessions": [
                {**views.session(session), "Stake": str(session.stake), "Prompts": node.prompts_of_session[session.id]}
                for session in sessions
            ],
            "faults": request.app[FAULTS].view(),
        }
    )


async def advance(request: web.Request) -> web.Response:
    """Move the simulator's clock forward; blocks, expiries and the closer follow."""
    seconds = (await params.json_body(request)).get("seconds")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= _LONGEST_ADVANCE:
        raise BadRequestError(f"seconds is a number from 0 to {_LONGEST_ADVANCE}")
    simulator = request.app[SIMULATOR]
    simulator.clock.advance(seconds)
    simulator.node.sync()
    simulator.save()
    return json_response({"now": simulator.clock.now(), "block": simulator.chain.height(simulator.clock.now())})


async def arm_fault(request: web.Request) -> web.Response:
    return json_response(request.app[FAULTS].arm(await params.json_body(request)).view(), 201)


async def faults(request: web.Request) -> web.Response:
    return json_response(request.app[FAULTS].view())


async def clear_faults(request: web.Request) -> web.Response:
    request.app[FAULTS].clear()
    return json_response(request.app[FAULTS].view())


async def clear_fault(request: web.Request) -> web.Response:
    """Remove one fault; what hangs in it goes on."""
    fault_id = request.match_info["id"]
    if not fault_id.isascii() or not fault_id.isdigit():
        raise BadRequestError("a fault's id is a number")
    request.app[FAULTS].clear(int(fault_id))
    return json_response(request.app[FAULTS].view())


async def set_bid(request: web.Request) -> web.Response:
    """Delete a bid, or bring it back."""
    simulator = request.app[SIMULATOR]
    body = await params.json_body(request)
    bid_id = params.hash32(params.text_field(body, "id"))
    if bid_id not in simulator.node.marketplace.bids or not isinstance(body.get("deleted"), bool):
        raise BadRequestError("id is that of a bid, deleted is true or false")
    simulator.node.marketplace.set_bid_deleted_at(bid_id, int(simulator.clock.now()) if body["deleted"] else 0)
    simulator.save()
    return json_response({"bid": views.bid(simulator.node.marketplace.bids[bid_id])})


async def set_balance(request: web.Request) -> web.Response:
    """Set what the wallet has, in wei."""
    simulator = request.app[SIMULATOR]
    body = await params.json_body(request)
    node = simulator.node
    node.sync()
    mor = params.big_int(body.get("mor", simulator.chain.ledger.mor_balance(node.wallet)))
    eth = params.big_int(body.get("eth", simulator.chain.ledger.eth_balance(node.wallet)))
    simulator.chain.fund(node.wallet, mor=mor, eth=eth)
    simulator.save()
    return json_response({"mor": str(mor), "eth": str(eth)})


async def wipe_storage(request: web.Request) -> web.Response:
    """Lose the node's storage; the chain stays."""
    simulator = request.app[SIMULATOR]
    simulator.node.wipe()
    return json_response({"wiped": True})


async def fail_storage(request: web.Request) -> web.Response:
    """Have the health check tell of a storage that fails, or with null of one that is well. Nothing else changes."""
    failure = (await params.json_body(request)).get("failure")
    if not (failure is None or isinstance(failure, str)):
        raise BadRequestError("failure is a text, or null for none")
    request.app[SIMULATOR].store.failure = failure
    return json_response({"failure": failure})


async def withdraw(request: web.Request) -> web.Response:
    """What the wallet's owner can only do past the router: withdrawUserStakes on the diamond."""
    node = request.app[SIMULATOR].node
    return json_response({"tx": await node.withdraw()})


ROUTES = [
    Route("GET", "/sim/state", state, "sim", None),
    Route("POST", "/sim/advance", advance, "sim", None),
    Route("POST", "/sim/faults", arm_fault, "sim", None),
    Route("GET", "/sim/faults", faults, "sim", None),
    Route("DELETE", "/sim/faults", clear_faults, "sim", None),
    Route("DELETE", "/sim/faults/{id}", clear_fault, "sim", None),
    Route("POST", "/sim/bids", set_bid, "sim", None),
    Route("POST", "/sim/balance", set_balance, "sim", None),
    Route("POST", "/sim/wipe", wipe_storage, "sim", None),
    Route("POST", "/sim/storage", fail_storage, "sim", None),
    Route("POST", "/sim/withdraw", withdraw, "sim", None),
]
