"""`python healthcheck.py URL`: ends with 0 if a GET there is answered 200, with 1 otherwise. Asked every few seconds, so it
imports next to nothing: 20 ms of CPU, where curl would be one more program in the image.
"""

import socket
import sys

SECONDS = 4.0
LARGEST = 64


def is_well(url: str) -> bool:
    """Tell whether `url` (http://host:port/path) answers 200 within `SECONDS`."""
    address, _, path = url.removeprefix("http://").partition("/")
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=SECONDS) as connection:
            connection.sendall(f"GET /{path} HTTP/1.0\r\nHost: {address}\r\n\r\n".encode())
            return connection.recv(LARGEST).split(b" ")[1:2] == [b"200"]
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(0 if is_well(sys.argv[1]) else 1)
