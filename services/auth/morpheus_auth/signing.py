"""The keys that sign access tokens, and their public halves for everybody who checks one.

A new key is published first and signs later, when everybody who verifies has it; the one before it stays published until
the last token it signed has expired. What each key is for follows from the times in the documents and from the database's
clock alone, so any number of processes agree without talking to each other.
"""

import base64
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from morpheus_common.contracts.signing_keys import SigningKey, SigningKeyState
from morpheus_common.errors import ApiError

ALGORITHM = "EdDSA"
STALE_SECONDS = 20.0
"""A process that could not read the keys for this long signs and publishes nothing: what it knows may be over."""
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class KeyTimes:
    """What the document of a key says; see `SigningKeyDocument`."""

    kid: str
    generation: int
    created_at: datetime
    signs_from: datetime | None
    older_until: datetime | None


def live_keys(keys: Iterable[KeyTimes], now: datetime) -> list[SigningKey]:
    """Return what each of `keys` is for at `now`, newest first. One that is not in it is withdrawn."""
    rows: list[SigningKey] = []
    retires_at: datetime | None = None
    somebody_signs = False
    for key in sorted(keys, key=lambda key: key.generation, reverse=True):
        if retires_at is not None and retires_at <= now:
            break
        if somebody_signs:
            state = SigningKeyState.RETIRING
        elif (key.signs_from or _LONG_AGO) <= now:
            state, somebody_signs = SigningKeyState.SIGNING, True
        else:
            state = SigningKeyState.PUBLISHED
        rows.append(
            SigningKey(
                kid=key.kid,
                generation=key.generation,
                state=state,
                created_at=key.created_at,
                signs_from=key.signs_from or key.created_at,
                retires_at=retires_at,
            )
        )
        retires_at = min((until for until in (retires_at, key.older_until) if until is not None), default=None)
    return rows


class SigningKeys:
    """A process's copy of the keys. It is told what the database says and goes on by itself for a short while."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._times: Sequence[KeyTimes] = ()
        self._private: Mapping[str, Ed25519PrivateKey] = {}
        self._database_time = _LONG_AGO
        self._asked_at = self._answered_at = float("-inf")

    @property
    def known(self) -> Mapping[str, Ed25519PrivateKey]:
        """The private keys of the copy, by `kid`."""
        return self._private

    def learn(
        self,
        times: Sequence[KeyTimes],
        private_keys: Mapping[str, Ed25519PrivateKey],
        *,
        database_time: datetime,
        asked_at: float,
    ) -> None:
        """Take over what the database said at `database_time`; it was asked at `asked_at` (of the monotonic clock)."""
        self._times, self._private = times, private_keys
        self._database_time, self._asked_at, self._answered_at = database_time, asked_at, self._clock()

    @property
    def live(self) -> list[SigningKey]:
        """The keys that are not withdrawn, newest first. Raises `ApiError` (service_unavailable) if the copy is stale."""
        now = self._clock()
        if now - self._asked_at > STALE_SECONDS:
            raise ApiError("service_unavailable", retry_after=1)
        # counted from the answer's arrival: what we take for the database's time is never ahead of it
        return live_keys(self._times, self._database_time + timedelta(seconds=now - self._answered_at))

    @property
    def current(self) -> tuple[str, Ed25519PrivateKey]:
        """The `kid` and key that sign now. Raises `ApiError` (service_unavailable) if the copy is stale."""
        kid = next(key.kid for key in self.live if key.state is SigningKeyState.SIGNING)
        return kid, self._private[kid]

    @property
    def jwks(self) -> dict[str, Any]:
        """The public keys as a JSON Web Key Set (RFC 7517, RFC 8037). Raises `ApiError` as `live`."""
        return {"keys": [_jwk(key.kid, self._private[key.kid]) for key in self.live]}


def _jwk(kid: str, key: Ed25519PrivateKey) -> dict[str, str]:
    raw = key.public_key().public_bytes_raw()
    x = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
    return {"kty": "OKP", "crv": "Ed25519", "x": x, "kid": kid, "use": "sig", "alg": ALGORITHM}
