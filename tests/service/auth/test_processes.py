import asyncio
import signal
from pathlib import Path

import jwt
import pytest
from morpheus_auth.documents import DOCUMENTS, SigningKeyDocument
from morpheus_auth.key_encryption import LocalKeyEncryption
from morpheus_auth.key_rotation import KeyRotation
from morpheus_auth.keyring import Keyring, KeyringError
from morpheus_auth.settings import AuthSettings
from morpheus_auth.signing import SigningKeys
from morpheus_auth.versioned_secrets import VersionedSecrets
from morpheus_auth.worker import serve
from morpheus_common.clock import utc_now
from morpheus_common.errors import ApiError
from morpheus_common.store.mongo import Database, apply_indexes, init_documents
from pydantic import SecretStr

from tests.service.auth.harness import Gateway, answered_by, opened, process, until, wiretap


async def test_two_workers_at_once_share_their_keys_and_keep_them_when_killed(
    settings: AuthSettings, database: Database, idle_gateway: Gateway, tmp_path: Path
) -> None:
    async with process(settings, "a", tmp_path / "log") as a, process(settings, "b", tmp_path / "log") as b:
        await until(answered_by(idle_gateway, "a", "b"))
        answers = [await idle_gateway.public_keys() for _ in range(20)]
        assert all(answer == answers[0] for answer in answers)
        await idle_gateway.register("ada@example.com")
        token = (await idle_gateway.login("ada@example.com")).access_token
        a.kill()
        b.kill()
    async with process(settings, "a", tmp_path / "log") as again:
        await until(answered_by(idle_gateway, "a"))
        assert await idle_gateway.public_keys() == answers[0]
        key = jwt.PyJWKSet.from_dict(answers[0].jwks)[jwt.get_unverified_header(token)["kid"]]
        jwt.decode(token, key, algorithms=["EdDSA"], audience="morpheus-gateway")
        await idle_gateway.login("ada@example.com")
        again.send_signal(signal.SIGTERM)
        assert await again.wait() == 0
    assert await database.get_collection("signing_keys").count_documents({}) == 1
    assert await database.get_collection("sealing_keys").count_documents({}) == 1


async def load(keyring: VersionedSecrets, keys: SigningKeys) -> None:
    ring = Keyring(LocalKeyEncryption(keyring))
    await KeyRotation(ring, keys, token_lifetime=1800).load(utc_now)


async def test_ten_first_starts_at_once_make_one_signing_key(settings: AuthSettings, database: Database) -> None:
    await init_documents(database, DOCUMENTS)
    loaded = [SigningKeys() for _ in range(10)]
    await asyncio.gather(*(load(settings.keyring, keys) for keys in loaded))
    assert all(len(keys.jwks["keys"]) == 1 and keys.jwks == loaded[0].jwks for keys in loaded)


async def test_a_worker_with_another_keyring_does_not_start(settings: AuthSettings, database: Database) -> None:
    await init_documents(database, DOCUMENTS)
    await load(settings.keyring, SigningKeys())
    with pytest.raises(KeyringError, match="AUTH_KEYRING version 1"):
        await load(VersionedSecrets({1: bytes(32)}), SigningKeys())
    assert await SigningKeyDocument.count() == 1


async def test_a_worker_waits_until_the_database_is_prepared(
    settings: AuthSettings, mongo_prefix: str, idle_gateway: Gateway, tmp_path: Path
) -> None:
    unprepared = settings.model_copy(update={"mongo_database": f"{mongo_prefix}unprepared"})
    log = tmp_path / "log"

    async def said_what_is_missing() -> bool:
        return "users.email_key" in log.read_text() and "morpheus apply" in log.read_text()

    async with process(unprepared, "a", log):
        await until(said_what_is_missing)
        async with opened(unprepared) as database:
            await apply_indexes(database, DOCUMENTS)
        await until(answered_by(idle_gateway, "a"))


async def test_a_worker_that_waits_at_start_can_be_told_to_go(
    settings: AuthSettings, mongo_prefix: str, tmp_path: Path
) -> None:
    unprepared = settings.model_copy(update={"mongo_database": f"{mongo_prefix}unprepared"})
    log = tmp_path / "log"

    async def waits() -> bool:
        return "morpheus apply" in log.read_text()

    async with process(unprepared, "a", log) as waiting:
        await until(waits)
        waiting.send_signal(signal.SIGTERM)
        async with asyncio.timeout(5):
            assert await waiting.wait() == 0


async def test_a_worker_that_is_told_to_go_answers_what_it_has_received(
    settings: AuthSettings, mongo_url: str, idle_gateway: Gateway
) -> None:
    async with wiretap(mongo_url) as tap:
        url = SecretStr(f"mongodb://{tap.address}/?directConnection=true")
        async with serve(settings.model_copy(update={"mongo_url": url})):
            ada = await idle_gateway.register("ada@example.com")
            tap.delay = 0.05
            # more than run at once, so that some wait inside the worker
            asked = [asyncio.create_task(idle_gateway.list_keys(ada.id)) for _ in range(200)]
            await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        assert await asyncio.gather(*asked) == [[]] * 200
    with pytest.raises(ApiError, match="service_unavailable"):
        await idle_gateway.list_keys(ada.id)
