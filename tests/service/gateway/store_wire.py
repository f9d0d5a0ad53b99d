"""A wire to the store of limits, which can be cut, fall silent, be slow, and speak nonsense or TLS."""

import asyncio
import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from morpheus_devstack.ports import LOOPBACK

from tests.faults.wires import Wire


class StoreWire(Wire):
    """`says`: what clients get in place of the server's answers; nothing at all if it is empty. `tries`: connections and
    questions so far. `slow`: seconds by which answers come later.
    """

    def __init__(self, server_port: int, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(server_port)
        self._tls = tls
        self.says: bytes | None = None
        self.tries = 0
        self.slow = 0.0
        self._carrying: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._listening = await asyncio.start_server(self._carry, LOOPBACK, 0, ssl=self._tls)

    async def stop(self) -> None:
        """Cut it, and wait until all of it is gone: nothing runs in a test's loop after the test."""
        await super().stop()
        while self._carrying:
            await asyncio.wait(self._carrying)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._carrying.add(task)
        self.tries += 1
        try:
            await super()._carry(reader, writer)
            await asyncio.sleep(0)
        finally:
            self._carrying.discard(task)

    async def _back(
        self, reader: asyncio.StreamReader, client: asyncio.StreamWriter, _server: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(65_536):
            self.tries += 1
            await asyncio.sleep(self.slow)
            client.write(data if self.says is None else self.says)
            await client.drain()


def certified(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """Return a new certificate of the loopback, and the context of a server that has it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "store of limits")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(LOOPBACK))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    public, private = folder / "store.pem", folder / "store.key"
    public.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, private)
    return public, context
