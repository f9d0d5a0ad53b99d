"""`python -m morpheus_gateway`: the gateway under uvicorn."""

import logging
import math
import signal
import sys

import uvicorn
from morpheus_common.logs import configure_logs
from morpheus_common.service import calm_garbage_collector
from morpheus_common.steps import SocketProbe, install
from uvicorn.config import STARTUP_FAILURE

from morpheus_gateway.app import create_app
from morpheus_gateway.http_protocol import HttpProtocol
from morpheus_gateway.server import Server
from morpheus_gateway.settings import GatewaySettings

KEEP_ALIVE_SECONDS = 75
"""Longer than the idle limit of usual load balancers (60 s), so that they never send into a closing connection."""


def _without_colours(record: logging.LogRecord) -> bool:
    """Drop the second copy of each sentence that uvicorn adds for terminals."""
    record.__dict__.pop("color_message", None)
    return True


def main() -> None:
    """Serve until SIGTERM or SIGINT; running answers then have `drain_seconds` to finish."""
    settings = GatewaySettings()
    configure_logs("gateway", settings.worker_id, settings.log_level)
    if settings.step_probe is not None:
        install(SocketProbe(settings.step_probe, settings.worker_id))
    logging.getLogger("uvicorn.error").addFilter(_without_colours)
    # uvicorn raises the signal again when it has drained; a clean stop is exit code 0
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: None)
    app = create_app(settings)
    calm_garbage_collector()
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=HttpProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        # nobody's X-Forwarded-* is believed
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=math.ceil(settings.drain_seconds),
    )
    server = Server(config, app.state.health, notice=settings.drain_notice)
    server.run()
    if not server.started:
        sys.exit(STARTUP_FAILURE)


if __name__ == "__main__":
    main()
