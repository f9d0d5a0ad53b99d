"""`morpheus rotate-kek`: every wrapped key gets to the current version, while all goes on, and after any interruption."""

import asyncio
import base64
import json
import secrets
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from morpheus_auth.documents import DOCUMENTS, PrivateKeyDocument, WrappedSecret
from morpheus_auth.kek_rotation import KekRotation
from morpheus_auth.key_encryption import KeyEncryption, LocalKeyEncryption
from morpheus_auth.key_rotation import KeyRotation
from morpheus_auth.keyring import Keyring, open_keyring
from morpheus_auth.sealing_key import load_sealing_key
from morpheus_auth.settings import AuthSettings, KekProvider
from morpheus_auth.signing import SigningKeys
from morpheus_auth.vault import Vault
from morpheus_auth.versioned_secrets import VersionedSecrets
from morpheus_auth.worker import serve
from morpheus_common.bus.names import User
from morpheus_common.bus.rpc import RpcClient
from morpheus_common.clock import utc_now
from morpheus_common.contracts.vault import (
    KEK_USES,
    REWRAP_KEYS,
    KekName,
    KekUse,
    KekUses,
    KeysRewrapped,
    RewrapKeys,
    WrappedKind,
)
from morpheus_common.errors import ApiError
from morpheus_common.store.mongo import Database, connect, init_documents
from nats.aio.msg import Msg
from pydantic import SecretStr

from tests.servers import NatsAccount
from tests.service.auth.harness import Gateway, answered_by, audit_of, process, until, wiretap
from tests.service.command import Said, morpheus
from tests.unit.auth.fake_vault import TOKEN, FakeVault, fake_vault

FIRST, SECOND, THIRD = (secrets.token_bytes(32) for _ in range(3))
USERS = [f"user-{number:03}" for number in range(60)]
SERVICE_KEYS = 3


def keyring(**keys: bytes) -> LocalKeyEncryption:
    return LocalKeyEncryption(VersionedSecrets({int(name[1:]): key for name, key in keys.items()}))


def written(**keys: bytes) -> str:
    return ",".join(f"{name[1:]}:{base64.b64encode(key).decode()}" for name, key in keys.items())


async def load_signing_keys(keys: KeyEncryption) -> SigningKeys:
    """Return the signing keys as a process that starts now opens them."""
    signing = SigningKeys()
    await KeyRotation(Keyring(keys), signing, token_lifetime=60).load(utc_now)
    return signing


@dataclass
class Stored:
    """What was there before: service keys and the private keys of `USERS`, all wrapped by `keys`."""

    settings: AuthSettings
    database: Database
    private_keys: dict[str, bytes]

    async def vault(self, keys: KeyEncryption) -> Vault:
        return Vault(await audit_of(self.database.client, keys), keys, False, utc_now, lambda: None)

    async def fill(self, keys: KeyEncryption) -> None:
        await load_signing_keys(keys)
        await load_sealing_key(Keyring(keys), utc_now)
        vault = await self.vault(keys)
        for user_id, key in self.private_keys.items():
            await (await vault._seal(user_id, key.hex().encode())).insert()

    async def open_all(self, keys: KeyEncryption) -> dict[str, bytes | None]:
        # a worker in this process has bound the documents to a client of its own
        await init_documents(self.database, DOCUMENTS)
        vault = await self.vault(keys)
        return {user_id: await vault.open(user_id) for user_id in self.private_keys}

    async def versions(self) -> Counter[Any]:
        """How many private keys are wrapped by which version."""
        rows = await self.database.get_collection("private_keys").find().to_list()
        return Counter(row["data_key"]["key_version"] for row in rows)


@pytest.fixture
async def stored(settings: AuthSettings) -> AsyncIterator[Stored]:
    client = connect(settings, "test")
    database = client.get_database(settings.mongo_database)
    await init_documents(database, DOCUMENTS)
    yield Stored(settings, database, {user_id: secrets.token_bytes(32) for user_id in USERS})
    await client.close()


async def rotate_kek(account: NatsAccount, *arguments: str) -> Said:
    """Run `morpheus rotate-kek …` as an operator would."""
    return await morpheus(account, "rotate-kek", *arguments)


@asynccontextmanager
async def operator(account: NatsAccount) -> AsyncIterator[RpcClient]:
    connection = await account.connect(User.OPS)
    yield RpcClient(connection)
    await connection.close()


async def test_everything_gets_to_the_new_version_while_it_is_read(
    stored: Stored, idle_gateway: Gateway, nats_streams: NatsAccount, tmp_path: Path
) -> None:
    """C38."""
    await stored.fill(keyring(v1=FIRST))
    both = keyring(v1=FIRST, v2=SECOND)
    ended = asyncio.Event()

    async def read() -> int:
        rounds = 0
        while not ended.is_set():
            assert await stored.open_all(both) == stored.private_keys
            assert (await idle_gateway.public_keys()).jwks["keys"]
            rounds += 1
        return rounds

    async with process(stored.settings, "a", tmp_path / "log", AUTH_KEYRING=written(v1=FIRST, v2=SECOND)):
        await until(answered_by(idle_gateway, "a"))
        reading = asyncio.create_task(read())
        looked = await rotate_kek(nats_streams, "--dry-run")
        rotated = await rotate_kek(nats_streams)
        again = await rotate_kek(nats_streams, "--json")
        ended.set()
        assert await reading > 0

    everything = len(USERS) + SERVICE_KEYS
    assert looked.code == 0, looked.err
    assert f"local version 1: {everything} keys" in looked.out
    assert f"{everything} to rewrap." in looked.out
    assert rotated.code == 0, rotated.err
    assert f"local version 2: {everything} keys (current)" in rotated.out
    assert f"{everything} rewrapped, 0 on other versions." in rotated.out
    assert "Nothing is wrapped by local version 1 any more" in rotated.out
    told = json.loads(again.out)
    assert (told["rewrapped"], told["remaining"], told["failed"]) == (0, 0, [])
    assert [(use["version"], use["records"]) for use in told["versions"]] == [("2", everything), ("1", 0)]

    # the old version can go
    assert await stored.open_all(keyring(v2=SECOND)) == stored.private_keys
    assert (await load_signing_keys(keyring(v2=SECOND))).jwks["keys"]


async def test_a_rotation_that_was_killed_goes_on_where_it_was(
    stored: Stored, idle_gateway: Gateway, nats_streams: NatsAccount, mongo_url: str, tmp_path: Path
) -> None:
    """C38."""
    await stored.fill(keyring(v1=FIRST))
    both = keyring(v1=FIRST, v2=SECOND)
    before: Counter[Any] = await stored.versions()
    async with wiretap(mongo_url) as tap, operator(nats_streams) as ops:
        url = SecretStr(f"mongodb://{tap.address}/?directConnection=true")
        slow = stored.settings.model_copy(update={"mongo_url": url})
        for worker in ("a", "b"):
            tap.delay = 0.0
            async with process(slow, worker, tmp_path / "log", AUTH_KEYRING=written(v1=FIRST, v2=SECOND)) as auth:
                await until(answered_by(idle_gateway, worker))
                tap.delay = 0.02
                asked = asyncio.create_task(_all_private_keys(ops))
                reached = before[2]

                async def is_amid_a_batch(reached: int = reached) -> bool:
                    return (await stored.versions())[2] > reached

                await until(is_amid_a_batch)
                auth.kill()
                await auth.wait()
                asked.cancel()
            after = await stored.versions()
            # some were rewrapped and some not; every one opens
            assert before[2] < after[2] < len(USERS)
            assert after.total() == len(USERS)
            assert await stored.open_all(both) == stored.private_keys
            before = after
    async with process(stored.settings, "c", tmp_path / "log", AUTH_KEYRING=written(v1=FIRST, v2=SECOND)):
        await until(answered_by(idle_gateway, "c"))
        # what was on its way when the last one was killed may have been written since
        left = len(USERS) - (await stored.versions())[2]
        rotated = await rotate_kek(nats_streams)
    assert left > 0
    assert f"{left + SERVICE_KEYS} rewrapped, 0 on other versions." in rotated.out
    assert await stored.open_all(keyring(v2=SECOND)) == stored.private_keys


async def _all_private_keys(ops: RpcClient) -> KeysRewrapped:
    return await ops.call(REWRAP_KEYS, RewrapKeys(kind=WrappedKind.PRIVATE_KEYS))


async def test_batches_are_bounded_and_follow_each_other(stored: Stored) -> None:
    await stored.fill(keyring(v1=FIRST))
    rotation = KekRotation(keyring(v1=FIRST, v2=SECOND))
    sizes, last, more = [], None, True
    while more:
        batch = await rotation.rewrap(RewrapKeys(kind=WrappedKind.PRIVATE_KEYS, after=last, limit=25))
        last, more = batch.last, batch.last is not None
        sizes.append(batch.rewrapped)
    assert sizes == [25, 25, 10]


async def test_a_key_that_does_not_open_is_told_of_and_stops_no_other(
    stored: Stored, nats_streams: NatsAccount
) -> None:
    await stored.fill(keyring(v1=FIRST))
    broken = await stored.database.get_collection("private_keys").find_one_and_update(
        {"user_id": USERS[3]}, {"$set": {"data_key.ciphertext": b"changed"}}
    )
    assert broken is not None
    ring = SecretStr(written(v1=FIRST, v2=SECOND))
    async with serve(stored.settings.model_copy(update={"auth_keyring": ring})):
        rotated = await rotate_kek(nats_streams)
    assert rotated.code == 3
    assert f"{len(USERS) - 1 + SERVICE_KEYS} rewrapped, 1 on other versions." in rotated.out
    assert broken["_id"] in rotated.out
    assert "any more" not in rotated.out


async def test_a_key_that_is_deleted_meanwhile_does_not_come_back(stored: Stored) -> None:
    """C38."""
    await stored.fill(keyring(v1=FIRST))

    class Deleting(LocalKeyEncryption):
        async def rewrap(self, wrapped: WrappedSecret, *, record_id: str) -> WrappedSecret:
            await PrivateKeyDocument.find({"_id": record_id}).delete()
            return await super().rewrap(wrapped, record_id=record_id)

    rotation = KekRotation(Deleting(VersionedSecrets({1: FIRST, 2: SECOND})))
    batch = await rotation.rewrap(RewrapKeys(kind=WrappedKind.PRIVATE_KEYS))
    assert (batch.rewrapped, batch.failed) == (0, [])
    assert await PrivateKeyDocument.count() == 0


async def test_a_rotation_that_was_overtaken_takes_nothing_back(stored: Stored) -> None:
    await stored.fill(keyring(v1=FIRST))
    newest = KekRotation(keyring(v1=FIRST, v2=SECOND, v3=THIRD))

    class Overtaken(LocalKeyEncryption):
        async def rewrap(self, wrapped: WrappedSecret, *, record_id: str) -> WrappedSecret:
            await newest.rewrap(RewrapKeys(kind=WrappedKind.SIGNING_KEYS))
            return await super().rewrap(wrapped, record_id=record_id)

    late = KekRotation(Overtaken(VersionedSecrets({1: FIRST, 2: SECOND})))
    assert (await late.rewrap(RewrapKeys(kind=WrappedKind.SIGNING_KEYS))).rewrapped == 0
    assert (await load_signing_keys(keyring(v3=THIRD))).jwks["keys"]


async def test_what_the_last_release_stored_is_counted_opened_and_rewrapped(stored: Stored) -> None:
    await stored.fill(keyring(v1=FIRST))
    signing = stored.database.get_collection("signing_keys")
    await signing.update_many({}, {"$unset": {"private_key.provider": "", "private_key.key": ""}})
    rotation = KekRotation(keyring(v1=FIRST))
    assert [use.records for use in (await rotation.uses()).uses] == [len(USERS) + SERVICE_KEYS]
    assert (await rotation.rewrap(RewrapKeys(kind=WrappedKind.SIGNING_KEYS))).rewrapped == 0
    rotation = KekRotation(keyring(v1=FIRST, v2=SECOND))
    assert (await rotation.rewrap(RewrapKeys(kind=WrappedKind.SIGNING_KEYS))).rewrapped == 1
    assert (await load_signing_keys(keyring(v2=SECOND))).jwks["keys"]


def by_vault(settings: AuthSettings, provider: FakeVault) -> AuthSettings:
    return settings.model_copy(
        update={
            "auth_kek_provider": KekProvider.VAULT,
            "auth_vault_address": provider.address,
            "auth_vault_token": SecretStr(TOKEN),
            # no test here waits for it, and the machine may be busy
            "auth_kek_seconds": 30,
        }
    )


async def test_vault_rewraps_without_showing_us_one_key_and_goes_on_after_it_was_away(
    stored: Stored, nats_streams: NatsAccount
) -> None:
    """C38."""
    async with fake_vault() as provider:
        settings = by_vault(stored.settings, provider)
        async with open_keyring(settings) as keys:
            await stored.fill(keys)
            async with serve(settings):
                provider.rotate()
                provider.asked.clear()
                provider.status = 503
                away = await rotate_kek(nats_streams)
                provider.status = None
                rotated = await rotate_kek(nats_streams, "--version", "vault:2")
                assert "decrypt" not in provider.asked
            provider.min_decryption_version = 2
            assert await stored.open_all(keys) == stored.private_keys
    assert away.code == 1
    assert "does not answer, or refuses" in away.err
    assert rotated.code == 0, rotated
    assert "Current is vault morpheus-auth version 2." in rotated.out
    assert "vault morpheus-auth version 1" in rotated.out
    assert f"{len(USERS) + SERVICE_KEYS} rewrapped, 0 on other versions." in rotated.out


async def test_what_was_wrapped_locally_moves_to_vault(stored: Stored, nats_streams: NatsAccount) -> None:
    """C38."""
    ring = SecretStr(written(v1=FIRST))
    await stored.fill(keyring(v1=FIRST))
    async with fake_vault() as provider:
        settings = by_vault(stored.settings.model_copy(update={"auth_keyring": ring}), provider)
        async with serve(settings):
            rotated = await rotate_kek(nats_streams)
        assert "Nothing is wrapped by local version 1 any more" in rotated.out, rotated
        async with open_keyring(settings.model_copy(update={"auth_keyring": SecretStr(written(v1=SECOND))})) as keys:
            assert await stored.open_all(keys) == stored.private_keys


async def test_a_rotation_that_is_too_early_says_which_version_is_current_and_does_nothing(
    stored: Stored, nats_streams: NatsAccount
) -> None:
    """C38."""
    await stored.fill(keyring(v1=FIRST))
    ring = SecretStr(written(v1=FIRST, v2=SECOND))
    async with serve(stored.settings.model_copy(update={"auth_keyring": ring, "auth_keyring_version": 1})):
        early = await rotate_kek(nats_streams, "--version", "2")
        looked = await rotate_kek(nats_streams, "--version", "2", "--dry-run", "--json")
        unasked = await rotate_kek(nats_streams)
        elsewhere = await rotate_kek(nats_streams, "--version", "vault:1")
    assert early.code == 3, early
    assert "For an auth process local version 1 is current, not local version 2: it rewrapped nothing." in early.out
    assert "Every version is still needed." in early.out
    assert "Current is local version 1." in early.out
    assert "any more" not in early.out
    told = json.loads(looked.out)
    assert (looked.code, told["current"]) == (3, "local version 1")
    assert "not local version 2" in told["mismatch"]
    assert (unasked.code, "Current is local version 1." in unasked.out) == (0, True)
    # the new version wraps nothing yet, which is no reason to take it out
    assert "any more" not in unasked.out
    assert elsewhere.code == 3
    assert "not vault version 1" in elsewhere.out
    async with serve(stored.settings.model_copy(update={"auth_keyring": ring, "auth_keyring_version": 2})):
        rotated = await rotate_kek(nats_streams, "--version", "2")
    assert rotated.code == 0, rotated
    assert f"{len(USERS) + SERVICE_KEYS} rewrapped, 0 on other versions." in rotated.out
    assert "Current is local version 2." in rotated.out
    assert await stored.open_all(keyring(v2=SECOND)) == stored.private_keys


async def test_a_process_with_another_version_than_asked_for_rewraps_nothing(stored: Stored) -> None:
    await stored.fill(keyring(v1=FIRST))
    expected = KekName(provider="local", version="2")
    question = RewrapKeys(kind=WrappedKind.PRIVATE_KEYS, expected=expected)
    new = await KekRotation(keyring(v1=FIRST, v2=SECOND)).rewrap(question)
    assert (new.rewrapped, new.current) == (len(USERS), KekName(provider="local", key="", version="2"))
    late = await KekRotation(LocalKeyEncryption(VersionedSecrets({1: FIRST, 2: SECOND}, chosen=1))).rewrap(question)
    assert (late.rewrapped, late.last, late.current) == (0, None, KekName(provider="local", key="", version="1"))
    assert await stored.versions() == {2: len(USERS)}


@dataclass
class Processes:
    """Auth processes that answer in turn, each with what is current for it; None: of an earlier release."""

    current: list[str | None]
    asked: list[KekName | None] = field(default_factory=list)

    async def rewrap(self, msg: Msg) -> None:
        question = RewrapKeys.model_validate_json(msg.data)
        self.asked.append(question.expected)
        version = self.current[min(len(self.asked), len(self.current)) - 1]
        name = None if version is None else KekName(provider="local", key="", version=version)
        fits = question.expected is None or name is None or question.expected.fits(name)
        answer = KeysRewrapped(rewrapped=7 if fits else 0, failed=[], last=None, current=name)
        await msg.respond(json.dumps({"ok": answer.model_dump(mode="json")}).encode())

    async def uses(self, msg: Msg) -> None:
        use = KekUse(provider="local", key="", version=self.current[-1] or "1", records=28, current=True)
        await msg.respond(json.dumps({"ok": KekUses(uses=[use]).model_dump(mode="json")}).encode())


@pytest.mark.parametrize(
    ("current", "arguments", "code", "rewrapped", "said"),
    [
        (
            ["2", "1", "2"],
            ["--version", "2"],
            3,
            7,
            "For an auth process local version 1 is current, not local version 2",
        ),
        # the one that counts in the end is behind, too: what it wraps from now on needs the old version
        (["2", "2", "2", "2", "1"], ["--version", "2"], 3, 28, "local version 1 is current, not local version 2"),
        (["2", None], ["--version", "2"], 3, 14, "An auth process of an earlier release answered"),
        (["1", "2"], [], 3, 7, "Auth processes differ in what is current: local version 1 and local version 2."),
        ([None], [], 0, 28, "Current is local version 1."),
        (["2"], ["--version", "2"], 0, 28, "Current is local version 2."),
    ],
)
async def test_processes_with_different_current_versions_are_noticed(
    nats_streams: NatsAccount, current: list[str | None], arguments: list[str], code: int, rewrapped: int, said: str
) -> None:
    processes = Processes(current)
    connection = await nats_streams.connect(User.AUTH)
    await connection.subscribe(REWRAP_KEYS.subject, queue=User.AUTH, cb=processes.rewrap)
    await connection.subscribe(KEK_USES.subject, queue=User.AUTH, cb=processes.uses)
    await connection.flush()
    told = await rotate_kek(nats_streams, *arguments)
    await connection.close()
    assert told.code == code, told
    assert f"{rewrapped} rewrapped" in told.out
    assert said in told.out


async def test_nobody_else_may_rotate(gateway: Gateway) -> None:
    with pytest.raises(ApiError, match="service_timeout"):
        await gateway.rpc.call(REWRAP_KEYS, RewrapKeys(kind=WrappedKind.PRIVATE_KEYS), timeout=0.5)


async def test_without_auth_it_says_so(nats_streams: NatsAccount) -> None:
    told = await rotate_kek(nats_streams)
    assert (told.code, told.out) == (1, "")
    assert "No auth worker answers" in told.err
