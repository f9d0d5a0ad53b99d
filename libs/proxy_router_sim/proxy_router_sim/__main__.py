"""Start a simulated proxy-router: ``python -m proxy_router_sim``."""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import secrets
import signal
import sys
from pathlib import Path

from aiohttp import web

from proxy_router_sim.app import create_app
from proxy_router_sim.auth import ALL, User
from proxy_router_sim.marketplace import WEI
from proxy_router_sim.simulator import Settings, Simulator, build

logger = logging.getLogger(__name__)

_SHUTDOWN_SECONDS = 0.5
"""How long running requests may go on after a signal; what they sent to the chain is mined either way."""


def _positive(text: str) -> float:
    number = float(text)
    if not number > 0:
        raise argparse.ArgumentTypeError("must be more than 0")
    return number


def _seconds(text: str) -> float:
    number = float(text)
    if not number >= 0:
        raise argparse.ArgumentTypeError("must be 0 or more")
    return number


def _user(text: str) -> User:
    try:
        return User.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def parser() -> argparse.ArgumentParser:
    """The command line."""
    commands = argparse.ArgumentParser(prog="proxy_router_sim", description="A simulated Morpheus proxy-router.")
    add = commands.add_argument
    add("--host", default="127.0.0.1")
    add("--port", type=int, default=8082, help="0 picks a free port (default 8082)")
    add("--user", default="admin", help="the user that may do everything (default admin)")
    add("--password-file", type=Path, help="its password; else PROXY_ROUTER_PASSWORD; else one is made and printed")
    add("--rpc-user", type=_user, action="append", default=[], metavar="NAME:PASSWORD:PERMISSIONS",
        help="another user, with permissions separated by commas or *; may be repeated")  # fmt: skip
    add("--llm", metavar="URL", help="OpenAI-compatible server that answers instead, e.g. http://host:port/v1")
    add("--llm-key-env", metavar="NAME", help="environment variable with the key for it")
    add("--llm-model", metavar="NAME", help="model to ask it for; else the marketplace's name")
    add("--speed", type=_positive, default=1.0, help="seconds of chain time in a second (default 1)")
    add("--seed", type=int, default=1, help="decides wallet, answers and chance (default 1)")
    add("--wallet-seed", type=int, metavar="N", help="decides the wallet alone (default: as --seed)")
    add("--nonce-races", action="store_true", help="overlapping transactions of the wallet can collide")
    add("--state", type=Path, metavar="FILE", help="keeps the chain and the node's storage between runs")
    add("--block-time", type=_positive, default=2.0, help="seconds of chain time between blocks (default 2)")
    add("--answer-time", type=_seconds, default=0.6, help="seconds a whole answer takes (default 0.6)")
    add("--mor", type=int, default=1_000_000, help="MOR in the wallet at the very start (default 1000000)")
    add("--eth", type=int, default=10, help="ETH in the wallet at the very start (default 10)")
    return commands


async def serve(settings: Settings, host: str, port: int, announced: dict[str, str]) -> None:
    """Run until SIGTERM or SIGINT; prints where it listens as one JSON line, with ``announced`` in it."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stop.set)
    simulator = build(settings)
    runner = web.AppRunner(
        create_app(simulator), handle_signals=False, access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS
    )
    await runner.setup()
    closer = asyncio.create_task(_close_for_ever(simulator))
    try:
        await web.TCPSite(runner, host, port).start()
        bound = runner.addresses[0][1]
        shown = f"[{host}]" if ":" in host else host
        where = {"url": f"http://{shown}:{bound}", "wallet": simulator.node.wallet, "diamond": simulator.chain.diamond}
        sys.stdout.write(json.dumps({**where, **announced}) + "\n")
        sys.stdout.flush()
        await stop.wait()
    finally:
        closer.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await closer
        await runner.cleanup()
        await simulator.close()


async def _close_for_ever(simulator: Simulator) -> None:
    while True:
        try:
            await simulator.node.closer.run()
        except Exception:
            logger.exception("the closer of expired sessions failed and starts again")


def main() -> int:
    """Entry of the command."""
    options = parser().parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    announced = {}
    if options.password_file:
        password = options.password_file.read_text(encoding="utf-8").strip()
    else:
        password = os.environ.get("PROXY_ROUTER_PASSWORD", "")
    if not password:
        # As the router does with its cookie file; there is no other way to learn it.
        password = announced["password"] = secrets.token_urlsafe(24)
    settings = Settings(
        users=[User.make(options.user, password, [ALL]), *options.rpc_user],
        seed=options.seed,
        wallet_seed=options.wallet_seed,
        nonce_races=options.nonce_races,
        speed=options.speed,
        block_seconds=options.block_time,
        answer_seconds=options.answer_time,
        mor=options.mor * WEI,
        eth=options.eth * WEI,
        llm_url=options.llm,
        llm_key=os.environ.get(options.llm_key_env) if options.llm_key_env else None,
        llm_model=options.llm_model,
        state_file=options.state,
    )
    try:
        asyncio.run(serve(settings, options.host, options.port, announced))
    except (OSError, ValueError) as error:
        logger.error("cannot run: %s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
