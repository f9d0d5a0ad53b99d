"""`morpheus certificates`: what is made serves the hosts it was made for, is made once, and in time again."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from morpheus_devstack.certificates import RENEWED_BEFORE, SERVER_LIFE, make_certificates
from morpheus_devstack.errors import StackError

NOW = datetime.now(UTC)
SERVERS = {"nats": ["nats-0.nats", "127.0.0.1"]}


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def handshake(folder: Path, host: str) -> str:
    """Return why a client that trusts `ca.crt` alone does not speak to the server as `host`; nothing if it does."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "nats" / "server.pem")
    client = ssl.create_default_context(cafile=folder / "ca.crt")
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_hostname=host)
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    open_sides = [ours, theirs]
    while open_sides:
        for side in list(open_sides):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as error:
                return error.verify_message
            open_sides.remove(side)
    return ""


def test_a_server_is_recognised_by_each_of_its_hosts_and_no_other(tmp_path: Path) -> None:
    assert make_certificates(tmp_path, SERVERS) == ["ca", "nats"]
    assert handshake(tmp_path, "nats-0.nats") == ""
    assert handshake(tmp_path, "127.0.0.1") == ""
    assert "mismatch" in handshake(tmp_path, "nats-1.nats")


def test_keys_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    make_certificates(tmp_path, SERVERS)
    private = [path for path in tmp_path.rglob("*") if b"PRIVATE" in (path.read_bytes() if path.is_file() else b"")]
    assert {path.name for path in private} == {"ca.key", "server.key", "server.pem"}
    assert {oct(path.stat().st_mode & 0o777) for path in private} == {"0o600"}


def test_what_is_good_stays_and_what_ends_soon_is_made_anew(tmp_path: Path) -> None:
    make_certificates(tmp_path, SERVERS, now=NOW)
    first = files(tmp_path)
    assert make_certificates(tmp_path, SERVERS, now=NOW + SERVER_LIFE - RENEWED_BEFORE - timedelta(days=1)) == []
    assert files(tmp_path) == first
    assert make_certificates(tmp_path, SERVERS, now=NOW + SERVER_LIFE - timedelta(days=1)) == ["nats"]
    assert files(tmp_path)["ca.crt"] == first["ca.crt"]


def test_a_server_with_another_host_gets_another_certificate_of_the_same_authority(tmp_path: Path) -> None:
    make_certificates(tmp_path, SERVERS)
    assert make_certificates(tmp_path, {"nats": ["nats-1.nats"]}) == ["nats"]
    assert handshake(tmp_path, "nats-1.nats") == ""


def test_servers_of_a_lost_authority_are_signed_by_the_new_one(tmp_path: Path) -> None:
    make_certificates(tmp_path, SERVERS)
    (tmp_path / "ca.crt").unlink()
    assert make_certificates(tmp_path, SERVERS) == ["ca", "nats"]
    assert handshake(tmp_path, "nats-0.nats") == ""


def test_a_file_that_is_no_certificate_is_an_error_that_quotes_nothing_of_it(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("secret words")
    with pytest.raises(StackError) as caught:
        make_certificates(tmp_path, SERVERS)
    assert "secret words" not in str(caught.value)
