"""Private keys of users: stored, replaced, deleted, told of, and never shown."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from morpheus_auth.documents import DOCUMENTS, PrivateKeyDocument
from morpheus_auth.key_encryption import LocalKeyEncryption
from morpheus_auth.keyring import KeyringError, open_keyring
from morpheus_auth.private_keys import address_of
from morpheus_auth.settings import AuthSettings, KekProvider
from morpheus_auth.vault import Vault
from morpheus_auth.worker import serve
from morpheus_common.bus.names import User
from morpheus_common.bus.rpc import RpcClient
from morpheus_common.clock import utc_now
from morpheus_common.contracts.vault import (
    DELETE_PRIVATE_KEY,
    PRIVATE_KEY_STATUS,
    STORE_PRIVATE_KEY,
    PrivateKeyDeleted,
    PrivateKeyOf,
    PrivateKeyStatus,
    StorePrivateKey,
)
from morpheus_common.errors import ApiError
from morpheus_common.ids import uuid7
from morpheus_common.request_context import request_id
from morpheus_common.settings import Environment
from morpheus_common.store.mongo import Database, connect, init_documents
from morpheus_common.store.transactions import run_transaction
from pydantic import SecretStr
from pymongo.asynchronous.client_session import AsyncClientSession

from tests.servers import NatsAccount
from tests.service.auth.harness import Gateway, answered_by, audit_of, dump, process, until, wiretap
from tests.unit.auth.fake_vault import TOKEN, fake_vault

HARDHAT_0 = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"


def new_private_key() -> str:
    return secrets.token_hex(32)


async def store(gateway: Gateway, user_id: str, private_key: str) -> PrivateKeyStatus:
    request_id.set(uuid7())
    sealed = await gateway.seal(private_key, STORE_PRIVATE_KEY)
    return await gateway.rpc.call(STORE_PRIVATE_KEY, StorePrivateKey(user_id=user_id, private_key=sealed))


async def status(gateway: Gateway, user_id: str) -> PrivateKeyStatus:
    return await gateway.rpc.call(PRIVATE_KEY_STATUS, PrivateKeyOf(user_id=user_id))


async def delete(gateway: Gateway, user_id: str) -> PrivateKeyDeleted:
    return await gateway.rpc.call(DELETE_PRIVATE_KEY, PrivateKeyOf(user_id=user_id))


async def kept(database: Database) -> list[dict[str, Any]]:
    """Everything of users, their keys and what was audited, without what a worker writes of itself."""
    names = ("users", "private_keys", "audit")
    return [row for name in names for row in await database.get_collection(name).find().sort("_id", 1).to_list()]


async def told(database: Database) -> list[tuple[str, str, int]]:
    """What events were staged of private keys: what happened, to which record, its version."""
    rows = await database.get_collection("outbox").find({"subject": {"$regex": "private_key"}}).sort("_id", 1).to_list()
    return [(row["subject"].split(".")[3], row["entity"], row["version"]) for row in rows]


def limits_of(pid: int) -> str:
    return Path(f"/proc/{pid}/limits").read_text()


@asynccontextmanager
async def opened_vault(settings: AuthSettings) -> AsyncIterator[Vault]:
    """The vault without a bus, on the same database."""
    client = connect(settings, "test")
    await init_documents(client.get_database(settings.mongo_database), DOCUMENTS)
    try:
        keys = LocalKeyEncryption(settings.keyring)
        yield Vault(await audit_of(client, keys), keys, False, utc_now, lambda: None)
    finally:
        await client.close()


async def test_a_key_is_told_of_by_its_address_and_never_answered(gateway: Gateway, settings: AuthSettings) -> None:
    ada = await gateway.register("ada@example.com")
    key = new_private_key()
    assert await status(gateway, ada.id) == PrivateKeyStatus(has_private_key=False)
    stored = await store(gateway, ada.id, "0x" + key)
    assert stored.model_dump(exclude={"created_at", "updated_at"}) == {
        "has_private_key": True,
        "address": address_of(bytes.fromhex(key)),
        "used_for_signing": False,
    }
    assert stored.created_at == stored.updated_at is not None
    assert (await status(gateway, ada.id)).model_dump_json() == stored.model_dump_json()
    async with opened_vault(settings) as vault:
        assert await vault.open(ada.id) == bytes.fromhex(key)


async def test_another_key_takes_the_place_of_the_first_and_nothing_of_that_is_left(
    gateway: Gateway, database: Database
) -> None:
    """C38."""
    ada = await gateway.register("ada@example.com")
    first = await store(gateway, ada.id, new_private_key())
    keys = database.get_collection("private_keys")
    before = await keys.find_one({"user_id": ada.id})
    assert before is not None
    second = await store(gateway, ada.id, new_private_key())
    after = await keys.find_one({"user_id": ada.id})
    assert after is not None
    assert second.address != first.address
    assert second.created_at == first.created_at
    assert second.updated_at is not None
    assert first.updated_at is not None
    assert second.updated_at > first.updated_at
    stored = await dump(database)
    assert after["data_key"]["ciphertext"] in stored
    for secret in (before["data_key"]["ciphertext"], before["ciphertext"]):
        assert secret not in stored
    assert await told(database) == [
        ("stored", before["_id"], 1),
        ("deleted", before["_id"], 2),
        ("stored", after["_id"], 1),
    ]


async def test_ten_keys_at_once_leave_one_that_opens(
    gateway: Gateway, database: Database, settings: AuthSettings
) -> None:
    ada = await gateway.register("ada@example.com")
    keys = [new_private_key() for _ in range(10)]
    stored = await asyncio.gather(*(store(gateway, ada.id, key) for key in keys))
    left = await database.get_collection("private_keys").find({}).to_list()
    assert len(left) == 1
    assert left[0]["address"] in {item.address for item in stored}
    async with opened_vault(settings) as vault:
        assert address_of(await vault.open(ada.id) or b"") == left[0]["address"]
    events = await told(database)
    assert len([event for event in events if event[0] == "stored"]) == 10
    assert len([event for event in events if event[0] == "deleted"]) == 9


async def test_deleting_says_what_was_deleted_and_then_there_is_nothing(gateway: Gateway, database: Database) -> None:
    ada = await gateway.register("ada@example.com")
    stored = await store(gateway, ada.id, new_private_key())
    deleted = await delete(gateway, ada.id)
    assert deleted.address == stored.address
    assert await status(gateway, ada.id) == PrivateKeyStatus(has_private_key=False)
    assert await database.get_collection("private_keys").count_documents({}) == 0
    assert [event[0] for event in await told(database)] == ["stored", "deleted"]
    with pytest.raises(ApiError, match="private_key_not_found"):
        await delete(gateway, ada.id)


async def test_nobody_stores_a_key_for_who_is_gone(gateway: Gateway, database: Database) -> None:
    ada = await gateway.register("ada@example.com")
    await database.get_collection("users").update_one({"_id": ada.id}, {"$set": {"is_active": False}})
    for user_id in (ada.id, "nobody"):
        with pytest.raises(ApiError, match="invalid_token"):
            await store(gateway, user_id, new_private_key())
    assert await database.get_collection("private_keys").count_documents({}) == 0


@pytest.mark.parametrize("known", [HARDHAT_0, f"{1:064x}", "0x" + "11" * 32])
async def test_production_refuses_a_key_that_everybody_knows(
    settings: AuthSettings, idle_gateway: Gateway, known: str
) -> None:
    for environment, refused in ((Environment.PRODUCTION, True), (Environment.DEVELOPMENT, False)):
        async with serve(settings.model_copy(update={"environment": environment})):
            user = await idle_gateway.register(f"{environment}@example.com")
            if refused:
                with pytest.raises(ApiError, match="development_key_refused") as error:
                    await store(idle_gateway, user.id, known)
                assert known not in f"{error.value} {error.value.details}"
            else:
                await store(idle_gateway, user.id, known)
            assert (await status(idle_gateway, user.id)).has_private_key is not refused


@pytest.mark.parametrize(
    "moved", [["ciphertext"], ["ciphertext", "nonce"], ["data_key"], ["ciphertext", "nonce", "data_key"]]
)
async def test_what_belongs_to_another_record_does_not_open(
    gateway: Gateway, database: Database, settings: AuthSettings, moved: list[str]
) -> None:
    """C38."""
    ada, eve = [await gateway.register(f"{name}@example.com") for name in ("ada", "eve")]
    for user in (ada, eve):
        await store(gateway, user.id, new_private_key())
    keys = database.get_collection("private_keys")
    other = await keys.find_one({"user_id": eve.id})
    assert other is not None
    await keys.update_one({"user_id": ada.id}, {"$set": {name: other[name] for name in moved}})
    async with opened_vault(settings) as vault:
        with pytest.raises(KeyringError):
            await vault.open(ada.id)
        assert await vault.open(eve.id) is not None


@pytest.mark.parametrize("field", ["user_id", "version"])
async def test_a_record_that_was_given_to_another_user_or_version_does_not_open(
    gateway: Gateway, database: Database, settings: AuthSettings, field: str
) -> None:
    """C38."""
    ada = await gateway.register("ada@example.com")
    await store(gateway, ada.id, new_private_key())
    changed: dict[str, Any] = {"user_id": "eve"} if field == "user_id" else {"version": 2}
    await database.get_collection("private_keys").update_one({}, {"$set": changed})
    async with opened_vault(settings) as vault:
        with pytest.raises(KeyringError):
            await vault.open(changed.get("user_id", ada.id))


async def test_an_account_that_goes_takes_its_key_along_in_its_own_transaction(
    gateway: Gateway, database: Database, settings: AuthSettings
) -> None:
    """C38."""
    ada = await gateway.register("ada@example.com")
    await store(gateway, ada.id, new_private_key())

    async def erase_and_fail(session: AsyncClientSession) -> None:
        assert await vault.erase(ada.id, session)
        raise ApiError("internal_error")

    async with opened_vault(settings) as vault:
        with pytest.raises(ApiError):
            await run_transaction(vault.audit.client, erase_and_fail)
        assert await PrivateKeyDocument.count() == 1
        assert await run_transaction(vault.audit.client, lambda session: vault.erase(ada.id, session))
        assert await PrivateKeyDocument.count() == 0
        assert not await run_transaction(vault.audit.client, lambda session: vault.erase(ada.id, session))
    assert [event[0] for event in await told(database)] == ["stored", "deleted"]


async def test_without_its_provider_nothing_is_stored_and_what_was_stays(
    settings: AuthSettings, idle_gateway: Gateway, database: Database
) -> None:
    async with fake_vault() as provider:
        by_vault = settings.model_copy(
            update={
                "auth_kek_provider": KekProvider.VAULT,
                "auth_vault_address": provider.address,
                "auth_vault_token": SecretStr(TOKEN),
                "auth_kek_seconds": 1.5,
            }
        )
        async with serve(by_vault):
            ada = await idle_gateway.register("ada@example.com")
            first = await store(idle_gateway, ada.id, new_private_key())
            before = await kept(database)
            provider.silent = True
            began = time.monotonic()
            with pytest.raises(ApiError, match="service_unavailable"):
                await store(idle_gateway, ada.id, new_private_key())
            assert time.monotonic() - began < 5
            assert await status(idle_gateway, ada.id) == first
            provider.silent = False
            assert await kept(database) == before
            assert (await store(idle_gateway, ada.id, new_private_key())).address != first.address
            async with open_keyring(by_vault) as keyring:
                # the worker's own client: a transaction belongs to one
                client = PrivateKeyDocument.get_pymongo_collection().database.client
                vault = Vault(await audit_of(client, keyring), keyring, False, utc_now, lambda: None)
                assert await vault.open(ada.id) is not None


async def test_a_worker_whose_provider_is_away_waits_for_it(
    settings: AuthSettings, idle_gateway: Gateway, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    async with fake_vault() as provider:
        provider.status = 503

        async def waits() -> bool:
            return '"on": "key encryption"' in log.read_text()

        vault = {"AUTH_KEK_PROVIDER": "vault", "AUTH_VAULT_ADDRESS": provider.address, "AUTH_VAULT_TOKEN": TOKEN}
        async with process(settings, "a", log, **vault):
            await until(waits)
            provider.status = None
            await until(answered_by(idle_gateway, "a"))


async def test_a_planted_key_is_found_nowhere_whatever_fails(
    settings: AuthSettings, database: Database, mongo_url: str, nats_streams: NatsAccount, tmp_path: Path
) -> None:
    """C39."""
    await init_documents(database, DOCUMENTS)
    log, key = tmp_path / "log", new_private_key()
    errors: list[ApiError] = []

    async def refused(gateway: Gateway, user_id: str, text: str) -> str:
        with pytest.raises(ApiError) as error:
            await store(gateway, user_id, text)
        errors.append(error.value)
        return error.value.code

    async with fake_vault() as provider, wiretap(settings.nats_url) as bus, wiretap(mongo_url) as mongo:
        connection = await replace(nats_streams, url=f"nats://{bus.address}").connect(User.GATEWAY)
        gateway = Gateway(RpcClient(connection))
        tapped = settings.model_copy(
            update={
                "nats_url": f"nats://{bus.address}",
                "mongo_url": SecretStr(f"mongodb://{mongo.address}/?directConnection=true"),
            }
        )
        vault = {"AUTH_KEK_PROVIDER": "vault", "AUTH_VAULT_ADDRESS": provider.address, "AUTH_VAULT_TOKEN": TOKEN}
        async with process(tapped, "a", log, MONGO_TIMEOUT_MS="500", **vault) as worker:
            await until(answered_by(gateway, "a"))
            limits = limits_of(worker.pid)
            ada = await gateway.register("ada@example.com")
            assert (await store(gateway, ada.id, key)).has_private_key
            for wrong in (key + "0", key[:-1], f" {key}", f"{key[:10]} {key[10:]}", "0x" + key[:63] + "g"):
                assert await refused(gateway, ada.id, wrong) == "validation_error"
            provider.status = 503
            assert await refused(gateway, ada.id, key) == "service_unavailable"
            provider.status = None
            assert await refused(gateway, "nobody", key) == "invalid_token"
            mongo.cut()
            assert await refused(gateway, ada.id, key) == "service_unavailable"
            mongo.mend()
            worker.terminate()
            await worker.wait()
        await connection.close()

    stored, logged = await dump(database), log.read_bytes()
    told = "".join(f"{error!r} {error} {error.param} {error.details}" for error in errors)
    assert "Max core file size        0                    0" in limits
    # what is looked for could be found
    assert ada.id.encode() in stored
    assert b"Vault refuses" in logged
    assert len(errors) == 8
    for form in _forms(key):
        for place in (stored, logged, told.encode(), bytes(bus.traffic), bytes(mongo.traffic)):
            assert form not in place


def _forms(key: str) -> list[bytes]:
    """How a key might be shown: its digits, some of them, its bytes, their repr."""
    raw = bytes.fromhex(key)
    return [key.encode(), key.upper().encode(), key[:16].encode(), key[-16:].encode(), raw, repr(raw)[2:-1].encode()]
