"""`python -m morpheus_gateway`: the gateway under uvicorn."""

import logging
import signal
import sys

from morpheus_common.logs import configure_logs
from morpheus_common.service import calm_garbage_collector
from morpheus_common.steps import SocketProbe, install
from morpheus_common.tracing import traces_exported
from uvicorn.config import STARTUP_FAILURE

from morpheus_gateway.app import create_app
from morpheus_gateway.server import Server, configured
from morpheus_gateway.settings import GatewaySettings


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
    with traces_exported("gateway", settings.worker_id):
        app = create_app(settings)
        calm_garbage_collector()
        server = Server(configured(app, settings), app.state.health, notice=settings.drain_notice)
        server.run()
    if not server.started:
        sys.exit(STARTUP_FAILURE)


if __name__ == "__main__":
    main()
