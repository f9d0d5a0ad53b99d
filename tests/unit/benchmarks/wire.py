"""A connection that goes nowhere."""

import asyncio


class Wire(asyncio.Transport):
    """Takes what is written and goes nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        self.written += b"<hung up>"
