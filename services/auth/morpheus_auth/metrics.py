"""What auth measures: logins, checks of keys, hashes of passwords, deletions of accounts, the provider of key encryption."""

import asyncio
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from morpheus_common.contracts.deletion import DeletionState
from morpheus_common.errors import ApiError
from morpheus_common.logs import get_logger
from morpheus_common.metrics import REGISTRY, at_most
from prometheus_client import Counter, Gauge
from pymongo.errors import PyMongoError

from morpheus_auth.documents import DeletionDocument, Progress
from morpheus_auth.key_encryption import ProviderAway
from morpheus_auth.keyring import Keyring, KeyringError

log = get_logger(__name__)

OK: Final = "ok"
REFUSED: Final = "refused"
THROTTLED: Final = "throttled"
FAILED: Final = "failed"
OUTCOMES: Final = (OK, REFUSED, THROTTLED, FAILED)
"""`refused`: a wrong password, a key that opens nothing. `throttled`: too many wrong ones before. `failed`: it could not be told."""
MEASURED_EVERY_SECONDS: Final = 15.0

LOGINS = at_most(
    Counter("morpheus_logins_total", "Logins with a password, by what came of them", ["outcome"], registry=REGISTRY),
    len(OUTCOMES),
)
KEY_CHECKS = at_most(
    Counter(
        "morpheus_key_checks_total",
        "API keys looked up, by what came of it; gateways ask once for what they use often",
        ["outcome"],
        registry=REGISTRY,
    ),
    len(OUTCOMES),
)
HASHES_WAITING = Gauge(
    "morpheus_password_hashes_waiting", "Passwords that wait for their turn to be hashed", registry=REGISTRY
)
DELETIONS = at_most(
    Gauge(
        "morpheus_deletions",
        "Deletions of accounts that are on record, of all workers; complete ones for as long as they can be asked about",
        ["state"],
        registry=REGISTRY,
    ),
    len(DeletionState),
)
DELETION_OLDEST = Gauge(
    "morpheus_deletion_oldest_seconds",
    "How long ago the deletion was asked for that is incomplete for longest; 0 when all are complete",
    registry=REGISTRY,
)
KEY_ENCRYPTION_UP = Gauge(
    "morpheus_key_encryption_up",
    "1 while the provider that wraps secrets at rest answers; looked at every 15 s",
    registry=REGISTRY,
)

_BY_OUTCOME: Final = {
    instrument: {outcome: instrument.labels(outcome) for outcome in OUTCOMES} for instrument in (LOGINS, KEY_CHECKS)
}


@contextmanager
def counted(instrument: Counter) -> Iterator[None]:
    """Count what comes of the block."""
    outcome = FAILED
    try:
        yield
        outcome = OK
    except ApiError as error:
        if error.kind.status == 429:
            outcome = THROTTLED
        elif error.kind.status < 500:
            outcome = REFUSED
        raise
    finally:
        _BY_OUTCOME[instrument][outcome].inc()


async def measure_deletions() -> None:
    """Show what is on record of deletions, until cancelled. Every worker does."""
    while True:
        try:
            await count_deletions()
        except PyMongoError as error:
            log.debug("deletions not counted", problem=type(error).__name__)
            # an old figure would stand above those of workers that can count
            DELETION_OLDEST.set(math.nan)
        await asyncio.sleep(MEASURED_EVERY_SECONDS)


async def count_deletions() -> None:
    """Look once how many deletions stand how, by the database's clock."""
    deletions = DeletionDocument.get_pymongo_collection()
    cursor = await deletions.aggregate(
        [
            {"$match": {"state": Progress.CREDENTIALS_DEAD.value}},
            {"$group": {"_id": None, "count": {"$sum": 1}, "oldest": {"$min": "$requested_at"}}},
            {"$set": {"waits": {"$subtract": ["$$NOW", "$oldest"]}}},
        ]
    )
    pending = await cursor.to_list(1)
    # counted in the index: there are as many as were asked for in a month
    complete = await deletions.count_documents({"state": Progress.COMPLETE.value})
    DELETIONS.labels(DeletionState.PENDING.value).set(pending[0]["count"] if pending else 0)
    DELETIONS.labels(DeletionState.COMPLETE.value).set(complete)
    # it was asked for by the clock of a worker, which may be ahead
    DELETION_OLDEST.set(max(0.0, pending[0]["waits"] / 1000) if pending else 0.0)


async def measure_key_encryption(keyring: Keyring) -> None:
    """Show whether the provider of key encryption answers, until cancelled."""
    while True:
        await look_at_key_encryption(keyring)
        await asyncio.sleep(MEASURED_EVERY_SECONDS)


async def look_at_key_encryption(keyring: Keyring) -> None:
    """Ask the provider once; it says itself why it is away."""
    try:
        await keyring.check()
    except (ProviderAway, KeyringError):
        KEY_ENCRYPTION_UP.set(0)
    except Exception as error:  # noqa: BLE001 - whatever a provider's client makes of an answer: looking on ends no process
        log.error("the provider of key encryption cannot be looked at", problem=type(error).__name__)
        KEY_ENCRYPTION_UP.set(0)
    else:
        KEY_ENCRYPTION_UP.set(1)
