"""Health, configuration and wallet (contract sections 2.1, 2.2, 2.9)."""

import time

from aiohttp import web

from proxy_router_sim import params
from proxy_router_sim.chain import CHAIN_ID
from proxy_router_sim.errors import BadRequestError, RouterError
from proxy_router_sim.ethereum import hash_id
from proxy_router_sim.routes.route import ETH_NODES, SIMULATOR, Route, json_response

DEFAULT_ETH_NODES = ("https://rpc.sim.invalid",)
VERSION = "v7.0.0"
"""The router's version that this one behaves like."""


def _uptime(seconds: int) -> str:
    """As Go prints a duration."""
    hours, rest = divmod(seconds, 3600)
    minutes, left = divmod(rest, 60)
    if hours:
        return f"{hours}h{minutes}m{left}s"
    return f"{minutes}m{left}s" if minutes else f"{left}s"


async def healthcheck(request: web.Request) -> web.Response:
    """The node's storage is all it looks at: not the chain, not the providers."""
    simulator = request.app[SIMULATOR]
    failure = simulator.store.failure
    components = {"badgerdb": "healthy, size=0.1MB" if failure is None else f"unhealthy: {failure}"}
    health = {
        "status": "healthy" if failure is None else "degraded",
        "version": VERSION,
        "uptime": _uptime(int(time.monotonic() - simulator.started)),
        "components": components,
    }
    return json_response(health, 200 if failure is None else 503)


async def config(request: web.Request) -> web.Response:
    simulator = request.app[SIMULATOR]
    return json_response(
        {
            "Version": VERSION,
            "Commit": "simulated",
            "DerivedConfig": {
                "WalletAddress": simulator.node.wallet,
                "ChainID": CHAIN_ID,
                "EthNodeURLs": request.app[ETH_NODES],
            },
            "Config": {
                "Blockchain": {"ChainID": CHAIN_ID},
                "Marketplace": {
                    "DiamondContractAddress": simulator.chain.diamond,
                    "MorTokenAddress": simulator.chain.mor_token,
                    "WalletPrivateKey": None,
                },
                "Proxy": {"StoreChatContext": False, "ForwardChatContext": False},
                "Web": {"Address": request.host},
            },
        }
    )


async def wallet(request: web.Request) -> web.Response:
    return json_response({"address": request.app[SIMULATOR].node.wallet})


async def set_eth_nodes(request: web.Request) -> web.Response:
    """Other RPC addresses; the simulator shows them and asks none."""
    urls = (await params.json_body(request)).get("urls")
    if not isinstance(urls, list) or not urls or not all(isinstance(url, str) for url in urls):
        raise BadRequestError("json: cannot unmarshal into Go struct field .urls of type []string")
    request.app[ETH_NODES][:] = urls
    return json_response({"status": "ok"})


async def reset_eth_nodes(request: web.Request) -> web.Response:
    request.app[ETH_NODES][:] = DEFAULT_ETH_NODES
    return json_response({"status": "ok"})


async def keep_wallet(_request: web.Request) -> web.Response:
    """The wallet is that of WALLET_PRIVATE_KEY, as in a container (section 5)."""
    raise RouterError(
        "cannot set private key for env wallet, switch to keychain wallet by removing WALLET_PRIVATE_KEY env var"
    )


async def attestations(_request: web.Request) -> web.Response:
    return json_response([])


async def local_models(_request: web.Request) -> web.Response:
    """The node's own models, not the marketplace's."""
    local = {
        "Id": hash_id("local-model"),
        "Name": "llama2",
        "Model": "llama2",
        "ApiType": "openai",
        "ApiUrl": "http://localhost:8080/v1",
        "Slots": 0,
        "CapacityPolicy": "",
    }
    return json_response([local])


ROUTES = [
    Route("GET", "/healthcheck", healthcheck, "healthcheck", None),
    Route("GET", "/config", config, "config", "system_config"),
    Route("GET", "/wallet", wallet, "wallet", "get_wallet"),
    Route("POST", "/config/ethNode", set_eth_nodes, "config", "system_config"),
    Route("DELETE", "/config/ethNode", reset_eth_nodes, "config", "system_config"),
    Route("POST", "/wallet/privateKey", keep_wallet, "wallet", "set_wallet"),
    Route("POST", "/wallet/mnemonic", keep_wallet, "wallet", "set_wallet"),
    Route("DELETE", "/wallet", keep_wallet, "wallet", "remove_wallet"),
    Route("GET", "/v1/models/attestation", attestations, "local_models", "get_local_models"),
    Route("GET", "/v1/models", local_models, "local_models", "get_local_models"),
]
