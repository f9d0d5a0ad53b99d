"""The keys that sign access tokens, and their public halves for everybody who checks one."""

import base64
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from morpheus_common.clock import Clock

from morpheus_auth.documents import SigningKeyDocument
from morpheus_auth.keyring import Keyring
from morpheus_auth.service_keys import load_or_create

ALGORITHM = "EdDSA"


class SigningKeys:
    """Ed25519 keys by `kid`. The first one signs, all of them are published."""

    def __init__(self, private_keys: Mapping[str, bytes]) -> None:
        self._keys = {kid: Ed25519PrivateKey.from_private_bytes(raw) for kid, raw in private_keys.items()}
        self.current_kid = next(iter(self._keys))

    @property
    def current(self) -> Ed25519PrivateKey:
        """The key that signs."""
        return self._keys[self.current_kid]

    @property
    def jwks(self) -> dict[str, Any]:
        """The public keys as a JSON Web Key Set (RFC 7517, RFC 8037)."""
        return {"keys": [_jwk(kid, key) for kid, key in self._keys.items()]}


def _jwk(kid: str, key: Ed25519PrivateKey) -> dict[str, str]:
    raw = key.public_key().public_bytes_raw()
    x = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
    return {"kty": "OKP", "crv": "Ed25519", "x": x, "kid": kid, "use": "sig", "alg": ALGORITHM}


async def load_signing_keys(keyring: Keyring, clock: Clock) -> SigningKeys:
    """Return the keys all processes of the service share. Raises `KeyringError`."""
    return SigningKeys(
        await load_or_create(
            SigningKeyDocument, keyring, lambda: Ed25519PrivateKey.generate().private_bytes_raw(), clock
        )
    )
