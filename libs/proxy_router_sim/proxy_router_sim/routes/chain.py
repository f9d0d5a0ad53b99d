"""The simulator's own controls of the chain, under /sim: no auth, no counterpart in the router."""

from typing import Any

from aiohttp import web

from proxy_router_sim import params
from proxy_router_sim.chain import HISTORY_BLOCKS
from proxy_router_sim.errors import BadRequestError
from proxy_router_sim.routes.route import SIMULATOR, Route, json_response
from proxy_router_sim.simulator import Simulator

_MOST_ATTEMPTS = 5
"""Of the router's escalator."""
_LONGEST_RACE = 3600.0


def chain_state(simulator: Simulator) -> dict[str, Any]:
    """What /sim/state shows of transactions and blocks."""
    chain, sender, closer = simulator.chain, simulator.node.sender, simulator.node.closer
    funding = chain.ledger.funding
    return {
        "pending_transactions": len(chain.mempool),
        "late_transactions": [transaction.hash for transaction in chain.mempool.late()],
        "nonces": {
            "races": sender.races.enabled,
            "mined": chain.ledger.account(sender.wallet).nonce,
            "next": chain.pending_nonce(sender.wallet),
            "conflicts": sender.counters["nonce_conflicts"],
            "overlaps": sender.counters["overlapping_transactions"],
            "max_in_flight": sender.counters["max_transactions_in_flight"],
        },
        "lag": chain.lag,
        "reorganisations": chain.reorganised,
        "funding": None if funding is None else str(funding),
        "closer": {"closing": closer.closing, "known_sessions": len(simulator.store.sessions)},
    }


async def _wish(request: web.Request) -> dict[str, Any]:
    return await params.json_body(request) if request.can_read_body else {}


def _whole(value: object, name: str, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise BadRequestError(f"{name} is a whole number from {least} to {most}")
    return value


async def release(request: web.Request) -> web.Response:
    """Have the transactions that are late, or the one with a ``hash``, mined with the next block."""
    wish = await _wish(request)
    wanted = params.hash32(params.text_field(wish, "hash")) if "hash" in wish else None
    return json_response({"released": request.app[SIMULATOR].node.sender.release_late(wanted)})


async def lag(request: web.Request) -> web.Response:
    """Let the router's node be some blocks late with all it reads; 0 for none."""
    simulator = request.app[SIMULATOR]
    blocks = _whole((await _wish(request)).get("blocks"), "blocks", 0, HISTORY_BLOCKS)
    simulator.node.sync()
    simulator.chain.lag = blocks
    return json_response({"lag": blocks, "block": simulator.chain.seen_height(simulator.clock.now())})


async def reorganise(request: web.Request) -> web.Response:
    """Take the last blocks back; their transactions return to the mempool, or are lost with ``drop``."""
    simulator = request.app[SIMULATOR]
    wish = await _wish(request)
    blocks = _whole(wish.get("blocks"), "blocks", 1, HISTORY_BLOCKS)
    others = _whole(wish.get("others", 0), "others", 0, 1000)
    drop = params.flag(wish, "drop")
    simulator.node.sync()
    taken_back = simulator.chain.reorganise(blocks, simulator.clock.now(), drop=drop, others=others)
    simulator.save()
    return json_response({"transactions": [transaction.hash for transaction in taken_back], "dropped": drop})


async def nonces(request: web.Request) -> web.Response:
    """Let overlapping transactions of the wallet collide, or not."""
    wish = await _wish(request)
    races = request.app[SIMULATOR].node.sender.races
    seconds = wish.get("seconds", races.seconds)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= _LONGEST_RACE:
        raise BadRequestError(f"seconds is a number from 0 to {_LONGEST_RACE}")
    attempts = _whole(wish.get("attempts", races.attempts), "attempts", 1, _MOST_ATTEMPTS)
    races.enabled, races.seconds, races.attempts = params.flag(wish, "races"), float(seconds), attempts
    return json_response({"races": races.enabled, "seconds": races.seconds, "attempts": races.attempts})


async def funding(request: web.Request) -> web.Response:
    """Set what the protocol can pay to providers (``mor`` in wei); null for enough. Without it closes revert."""
    simulator = request.app[SIMULATOR]
    wish = await _wish(request)
    if "mor" not in wish:
        raise BadRequestError("mor is an amount in wei, or null for enough")
    amount = None if wish["mor"] is None else params.big_int(wish["mor"])
    simulator.node.sync()
    simulator.chain.set_funding(amount)
    simulator.save()
    return json_response({"mor": None if amount is None else str(amount)})


ROUTES = [
    Route("POST", "/sim/release", release, "sim", None),
    Route("POST", "/sim/lag", lag, "sim", None),
    Route("POST", "/sim/reorg", reorganise, "sim", None),
    Route("POST", "/sim/nonces", nonces, "sim", None),
    Route("POST", "/sim/funding", funding, "sim", None),
]
