"""What auth measures moves when what it measures happens."""

import asyncio
import hashlib
from datetime import timedelta

import pytest
from morpheus_auth import metrics
from morpheus_auth.documents import DeletionDocument, Progress
from morpheus_auth.key_encryption import KekVersion, LocalKeyEncryption, ProviderAway
from morpheus_auth.keyring import Keyring
from morpheus_auth.passwords import Passwords
from morpheus_auth.versioned_secrets import VersionedSecrets
from morpheus_common.clock import utc_now
from morpheus_common.contracts.auth import CHECK_KEY, CheckKey
from morpheus_common.errors import ApiError
from morpheus_common.metrics import REGISTRY
from morpheus_common.store.mongo import Database, init_documents

from tests.metrics import Moves, shown
from tests.service.auth.harness import Gateway
from tests.service.common.waiting import until


async def test_logins_are_counted_by_what_came_of_them(gateway: Gateway) -> None:
    await gateway.register("ada@example.com")
    moves = Moves()
    await gateway.login("ada@example.com")
    with pytest.raises(ApiError, match="invalid_credentials"):
        await gateway.login("ada@example.com", "wrong password")
    assert moves.of("morpheus_logins_total", outcome="ok") == 1
    assert moves.of("morpheus_logins_total", outcome="refused") == 1


async def test_keys_that_are_looked_up_are_counted(gateway: Gateway) -> None:
    moves = Moves()
    with pytest.raises(ApiError, match="invalid_api_key"):
        await gateway.rpc.call(CHECK_KEY, CheckKey(sha256=hashlib.sha256(b"nobody's").hexdigest()))
    assert moves.of("morpheus_key_checks_total", outcome="refused") == 1


def test_who_has_to_wait_was_not_refused_and_what_could_not_be_told_is_neither() -> None:
    moves = Moves()
    with pytest.raises(ApiError, match="rate_limit_exceeded"), metrics.counted(metrics.LOGINS):
        raise ApiError("rate_limit_exceeded")
    with pytest.raises(ApiError, match="overloaded"), metrics.counted(metrics.LOGINS):
        raise ApiError("overloaded")
    with pytest.raises(LookupError), metrics.counted(metrics.LOGINS):
        raise LookupError
    assert moves.of("morpheus_logins_total", outcome="throttled") == 1
    assert moves.of("morpheus_logins_total", outcome="failed") == 2


async def test_deletions_are_shown_by_how_they_stand_and_for_how_long_the_oldest_has(database: Database) -> None:
    await init_documents(database, [DeletionDocument])
    await metrics.count_deletions()
    assert (shown("morpheus_deletions", state="pending"), shown("morpheus_deletion_oldest_seconds")) == (0, 0)
    now = utc_now()
    for number, state in enumerate((Progress.CREDENTIALS_DEAD, Progress.CREDENTIALS_DEAD, Progress.COMPLETE)):
        asked_at = now - timedelta(minutes=number)
        await DeletionDocument(
            id=str(number), user_id=None, state=state, not_before=now, requested_at=asked_at
        ).insert()
    await metrics.count_deletions()
    assert shown("morpheus_deletions", state="pending") == 2
    assert shown("morpheus_deletions", state="complete") == 1
    assert shown("morpheus_deletion_oldest_seconds") == pytest.approx(60, abs=30)


async def test_a_provider_of_key_encryption_that_is_away_shows() -> None:
    class Provider(LocalKeyEncryption):
        away = False

        async def versions(self) -> list[KekVersion]:
            if self.away:
                raise ProviderAway
            return await super().versions()

    provider = Provider(VersionedSecrets({1: bytes(32)}))
    keyring = Keyring(provider)
    await metrics.look_at_key_encryption(keyring)
    assert shown("morpheus_key_encryption_up") == 1
    provider.away = True
    await metrics.look_at_key_encryption(keyring)
    assert shown("morpheus_key_encryption_up") == 0


@pytest.mark.parametrize("problem", [FileNotFoundError("/run/token"), KeyError("Arn"), RuntimeError("of its client")])
async def test_a_provider_that_fails_in_any_way_shows_and_is_looked_at_until_it_is_back(
    problem: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else every process of auth would end over one file."""

    class Provider(LocalKeyEncryption):
        problem: Exception | None = None

        async def versions(self) -> list[KekVersion]:
            if self.problem is not None:
                raise self.problem
            return await super().versions()

    async def shows(up: int) -> bool:
        return shown("morpheus_key_encryption_up") == up and not job.done()

    monkeypatch.setattr(metrics, "MEASURED_EVERY_SECONDS", 0.001)
    provider = Provider(VersionedSecrets({1: bytes(32)}))
    job = asyncio.create_task(metrics.measure_key_encryption(Keyring(provider)))
    await until(lambda: shows(1))
    provider.problem = problem
    await until(lambda: shows(0))
    provider.problem = None
    await until(lambda: shows(1))
    job.cancel()
    await asyncio.gather(job, return_exceptions=True)


async def test_who_waits_for_a_hash_is_counted_and_who_is_hashed_is_not() -> None:
    passwords = Passwords(passes=1, memory_kib=8, lanes=1, at_once=1, waiting=5)
    hashing = [asyncio.create_task(passwords.hash("correct horse")) for _ in range(4)]
    await asyncio.sleep(0)
    assert passwords.waiting == 3
    await asyncio.gather(*hashing)
    assert passwords.waiting == 0


async def test_a_worker_shows_its_own_line_of_hashes_and_its_provider(gateway: Gateway) -> None:
    await gateway.register("ada@example.com")
    assert REGISTRY.get_sample_value("morpheus_password_hashes_waiting") == 0
    assert shown("morpheus_key_encryption_up") == 1
