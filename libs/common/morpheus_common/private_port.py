"""The private port of a process: `/metrics` for Prometheus, `/live` and `/ready` for a supervisor.

It is a thread of its own with a port of its own: it answers while the public port is full and while the event loop hangs, and
nothing of it can be reached through a gateway's public port.
"""

import json
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client.exposition import ThreadingWSGIServer, make_wsgi_app

from morpheus_common.logs import get_logger
from morpheus_common.metrics import REGISTRY
from morpheus_common.standing import Standing

log = get_logger(__name__)

ASKED_AT_ONCE: Final = 8
"""Prometheus and a supervisor ask one question at a time each; who comes beside is hung up on."""
ASKER_SECONDS: Final = 5.0
"""So long an asker may take over its request."""

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


class _Server(ThreadingWSGIServer):
    """A thread for each request, `ASKED_AT_ONCE` at most."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._places = threading.BoundedSemaphore(ASKED_AT_ONCE)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        # a limit of the handler's own would begin anew with each byte that an asker sends
        deadline = threading.Timer(ASKER_SECONDS, _hang_up, (request,))
        deadline.daemon = True
        deadline.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            deadline.cancel()
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - as the base class has it
        # an asker that left or was too slow; the base class writes its traceback to standard error
        log.debug("private port: a request was not finished")


def _hang_up(request: socket.socket) -> None:
    with suppress(OSError):  # it has gone by itself
        request.shutdown(socket.SHUT_RDWR)


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as the base class has it
        """Log nothing: this is asked every few seconds, for ever."""


def _application(standing: Standing) -> Application:
    metrics: Application = make_wsgi_app(REGISTRY)

    def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            return metrics(environ, start_response)
        body: dict[str, Any]
        if path == "/live":
            lives = standing.lives
            status, body = HTTPStatus.OK if lives else HTTPStatus.SERVICE_UNAVAILABLE, {"live": lives}
        elif path == "/ready":
            missing = standing.missing
            status = HTTPStatus.SERVICE_UNAVAILABLE if missing else HTTPStatus.OK
            body = {"ready": not missing, "missing": missing}
        else:
            status, body = HTTPStatus.NOT_FOUND, {"paths": ["/live", "/metrics", "/ready"]}
        content = json.dumps(body).encode() + b"\n"
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(content)))]
        start_response(f"{status.value} {status.phrase}", headers)
        return [content]

    return answer


@contextmanager
def private_port(host: str, port: int | None, standing: Standing) -> Iterator[int | None]:
    """Answer on `host` and `port` while the block runs, and yield the port: 0 takes a free one, None opens none.

    Raises:
        OSError: the port is taken.
    """
    if port is None:
        yield None
        return
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    kind: type[WSGIServer] = type("_ServerOfFamily", (_Server,), {"address_family": family})
    try:
        server: WSGIServer = make_server(host, port, _application(standing), kind, _Handler)
    except OSError as error:
        log.critical(
            "the private port cannot be opened: METRICS_HOST and METRICS_PORT name it",
            host=host,
            port=port,
            problem=str(error),
        )
        raise
    thread = threading.Thread(target=server.serve_forever, name="private-port", daemon=True)
    thread.start()
    log.info("private port", host=host, port=server.server_port)
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
