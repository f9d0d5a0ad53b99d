"""HTTP as uvicorn speaks it, with two differences."""

from morpheus_common.errors import ApiError
from morpheus_common.ids import uuid7
from uvicorn._types import ASGISendEvent
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from morpheus_gateway.errors import error_response


class HttpProtocol(HttpToolsProtocol):
    """Answers HTTP/1.0 without chunks, and what is not HTTP with an error of the form that all errors have."""

    def on_headers_complete(self) -> None:
        """Begin to answer a request."""
        super().on_headers_complete()
        if self.scope["http_version"] == "1.0":
            _end_with_the_connection(self.cycle)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's words, which it has logged already
        """Refuse what cannot be read."""
        answer = error_response(ApiError("malformed_request"), "")
        answer.headers["Cache-Control"] = "no-store"
        answer.headers["Connection"] = "close"
        answer.headers["X-Content-Type-Options"] = "nosniff"
        answer.headers["X-Request-Id"] = uuid7()
        head = b"".join(name + b": " + value + b"\r\n" for name, value in answer.raw_headers)
        self.transport.write(STATUS_LINE[answer.status_code] + head + b"\r\n" + bytes(answer.body))
        self.transport.close()


def _end_with_the_connection(cycle: RequestResponseCycle) -> None:
    """Send an answer of unknown length as it is: a client of HTTP/1.0 knows no chunks (RFC 9112, 6.1), and its connection is
    closed after the answer anyway. uvicorn has no setting for this. It compares what is sent with the length that it was told,
    so it is told that of each piece.
    """
    send = cycle.send
    length_unknown = False

    async def send_without_chunks(message: ASGISendEvent) -> None:
        nonlocal length_unknown
        if message["type"] == "http.response.start":
            length_unknown = all(name.lower() != b"content-length" for name, _ in message.get("headers", ()))
            if length_unknown:
                cycle.chunked_encoding = False
        elif message["type"] == "http.response.body" and length_unknown:
            cycle.expected_content_length = len(message.get("body", b""))
        await send(message)

    cycle.send = send_without_chunks  # type: ignore[method-assign]  # the cycle is made where no other can be given
