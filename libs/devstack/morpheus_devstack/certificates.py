"""Certificates for servers that only a deployment's own parts speak to, and the authority that signs them."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from morpheus_devstack.errors import StackError
from morpheus_devstack.secrets import write_private

AUTHORITY: Final = "ca"
AUTHORITY_LIFE: Final = timedelta(days=3_650)
SERVER_LIFE: Final = timedelta(days=365)
RENEWED_BEFORE: Final = timedelta(days=60)
"""A certificate that ends within this time is made anew."""
CLOCK_DIFFERENCE: Final = timedelta(hours=1)
"""A certificate is good so long before it was made: clocks differ."""

PrivateKey = ec.EllipticCurvePrivateKey


def make_certificates(folder: Path, servers: Mapping[str, Sequence[str]], *, now: datetime | None = None) -> list[str]:
    """Write `NAME/server.crt`, `.key` and `.pem` (both in one) for each server, by its hosts (names and addresses), and
    `ca.crt` and `ca.key` of who signed them. What is there and good for `RENEWED_BEFORE` stays. Returns what was made.

    Raises:
        StackError: a file cannot be read or written.
    """
    now = now or datetime.now(UTC)
    made = []
    try:
        authority, signer = _read(folder / f"{AUTHORITY}.crt"), None
        if authority is None or authority.not_valid_after_utc - now < SERVER_LIFE:
            signer = ec.generate_private_key(ec.SECP256R1())
            authority = _authority(signer, now)
            _write(folder / AUTHORITY, authority, signer)
            made.append(AUTHORITY)
        for name, hosts in servers.items():
            known = _read(folder / name / "server.crt")
            if known is not None and _serves(known, authority, hosts, now):
                continue
            signer = signer or _key(folder / f"{AUTHORITY}.key")
            key = ec.generate_private_key(ec.SECP256R1())
            _write(folder / name / "server", _server(key, hosts, authority, signer, now), key, together=True)
            made.append(name)
    except (OSError, ValueError) as error:
        raise StackError(f"Certificates in {folder} cannot be made: {error}.") from error
    return made


def _read(path: Path) -> x509.Certificate | None:
    return x509.load_pem_x509_certificate(path.read_bytes()) if path.exists() else None


def _key(path: Path) -> PrivateKey:
    key = load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{path} is no key that was made here")  # noqa: TRY004 - what is in a file has no type yet
    return key


def _write(stem: Path, certificate: x509.Certificate, key: PrivateKey, *, together: bool = False) -> None:
    stem.parent.mkdir(parents=True, exist_ok=True, mode=0o711)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    public = certificate.public_bytes(Encoding.PEM).decode()
    write_private(stem.with_suffix(".key"), private)
    if together:
        write_private(stem.with_suffix(".pem"), public + private)
    # last: what names the others is there when they are
    write_private(stem.with_suffix(".crt"), public)


def _names(hosts: Sequence[str]) -> x509.SubjectAlternativeName:
    names: list[x509.GeneralName] = []
    for host in hosts:
        try:
            names.append(x509.IPAddress(ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    return x509.SubjectAlternativeName(names)


def _serves(known: x509.Certificate, authority: x509.Certificate, hosts: Sequence[str], now: datetime) -> bool:
    names = known.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return (
        known.not_valid_after_utc - now >= RENEWED_BEFORE
        and names == _names(hosts)
        and known.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value == _issued_by(authority)
    )


def _issued_by(authority: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    identifier = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _builder(name: str, key: PrivateKey, now: datetime, life: timedelta) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_DIFFERENCE)
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _authority(key: PrivateKey, now: datetime) -> x509.Certificate:
    builder = _builder("morpheus deployment", key, now, AUTHORITY_LIFE)
    return (
        builder.issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "morpheus deployment")]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )


def _server(
    key: PrivateKey, hosts: Sequence[str], authority: x509.Certificate, signer: PrivateKey, now: datetime
) -> x509.Certificate:
    # servers of a cluster are each other's clients
    both = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    return (
        _builder(hosts[0][:64], key, now, SERVER_LIFE)
        .issuer_name(authority.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(both, critical=False)
        .add_extension(_names(hosts), critical=False)
        .add_extension(_issued_by(authority), critical=False)
        .sign(signer, hashes.SHA256())
    )
