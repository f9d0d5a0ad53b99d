import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial
from pathlib import Path

import jwt
import pytest
from morpheus_auth.access_tokens import AccessTokens
from morpheus_auth.accounts import Proven
from morpheus_auth.audit import Audit, load_audit_keys
from morpheus_auth.documents import UserDocument
from morpheus_auth.key_encryption import LocalKeyEncryption
from morpheus_auth.key_rotation import KeyRotation
from morpheus_auth.keyring import Keyring
from morpheus_auth.settings import AuthSettings
from morpheus_auth.signing import SigningKeys
from morpheus_auth.tokens import Logins
from morpheus_auth.worker import serve
from morpheus_common.clock import utc_now
from morpheus_common.contracts.deletion import (
    DELETE_ACCOUNT,
    GET_DELETION,
    AccountDeletion,
    DeleteAccount,
    DeletedData,
    DeletionState,
    GetDeletion,
)
from morpheus_common.errors import ApiError
from morpheus_common.ids import uuid7
from morpheus_common.steps import DELETION_STEPS, Step
from morpheus_common.store.mongo import Database

from tests.faults.controller import Arrival, Controller
from tests.servers import NatsAccount
from tests.service.auth.harness import Gateway, answered_by, dump, new_key, process, until
from tests.service.auth.neighbours import Neighbours

TRUE_FIGURES = DeletedData(sessions=3, api_keys=2, private_key=False, automation_settings=True, delegations=0)
ELSEWHERE = ["sessions.close_user", "sessions.erase_user", "automation.erase_user"]
OWN_STEPS = [
    step for step in DELETION_STEPS if not step.value.partition(" ")[2].startswith(("sessions:", "automation:"))
]
UNWRITTEN = {Step.DELETION_RECEIVED, Step.CREDENTIALS_ENDING}
"""A worker killed at these has written nothing."""
PATIENCE = 60.0
"""Starting a process takes long on a busy machine; nothing here passes by waiting longer."""


@pytest.fixture
async def neighbours(nats_streams: NatsAccount) -> AsyncIterator[Neighbours]:
    """The other services, on the bus."""
    neighbours = Neighbours()
    await neighbours.come(nats_streams)
    yield neighbours
    await neighbours.leave()


def new_token() -> str:
    """Return what a deletion is asked about with, as auth gets it."""
    return hashlib.sha256(uuid7().encode()).hexdigest()


async def delete(gateway: Gateway, user_id: str, token: str | None = None, *, wait: float = 15.0) -> AccountDeletion:
    command = DeleteAccount(user_id=user_id, token_sha256=token or new_token(), wait=wait)
    return await gateway.rpc.call(DELETE_ACCOUNT, command, timeout=wait + 5)


async def status(gateway: Gateway, token: str) -> AccountDeletion:
    return await gateway.rpc.call(GET_DELETION, GetDeletion(token_sha256=token))


async def is_complete(gateway: Gateway, token: str) -> bool:
    try:
        return (await status(gateway, token)).status is DeletionState.COMPLETE
    except ApiError:
        return False


async def is_begun(gateway: Gateway, user_id: str, token: str) -> bool:
    """Send the command again, as the gateway does until it is answered; tell whether it was taken."""
    try:
        await delete(gateway, user_id, token, wait=0.0)
    except ApiError as error:
        # what a process that was killed in a transaction wrote is in the way until the database gives it up
        if error.code not in {"service_unavailable", "service_timeout"}:
            raise
        return False
    return True


async def ada_with_keys(gateway: Gateway, email: str = "ada@example.com") -> tuple[str, list[str]]:
    """Register a user with a used login and two keys, one of them revoked; return her id and the keys."""
    ada = await gateway.register(email, name=f"the name at {email}")
    await gateway.refresh((await gateway.login(email)).refresh_token)
    keys = [new_key(), new_key()]
    rows = [await gateway.create_key(ada.id, key, name="laptop") for key in keys]
    await gateway.deactivate_key(ada.id, rows[0].id)
    return ada.id, keys


async def test_an_account_goes_with_all_that_belongs_to_it_and_the_figures_are_true(
    gateway: Gateway, database: Database, neighbours: Neighbours
) -> None:
    ada, keys = await ada_with_keys(gateway)
    eve, _ = await ada_with_keys(gateway, "eve@example.com")
    named = [ada, "ada@example.com", *(row.id for row in await gateway.list_keys(ada))]
    token = new_token()

    answer = await delete(gateway, ada, token)

    assert (answer.status, answer.deleted_data) == (DeletionState.COMPLETE, TRUE_FIGURES)
    assert answer.deleted_at is not None
    assert answer.deleted_at >= answer.requested_at
    assert await status(gateway, token) == answer
    assert neighbours.asked == [(verb, ada) for verb in ELSEWHERE]
    assert len(await gateway.list_keys(eve)) == 2
    # events hold ids, for as long as the stream does
    await database.get_collection("outbox").delete_many({"payload": {"$regex": ada}})
    # the log of acts keeps ids of keys, which lead nowhere, and names nobody
    log = str(await database.get_collection("audit").find().to_list())
    assert [text for text in (ada, "ada@example.com") if text in log] == []
    await database.get_collection("audit").delete_many({})
    left = await dump(database)
    assert [text for text in [*named, *(key[:9] for key in keys)] if text.encode() in left] == []
    of_eve = {name: await database.get_collection(name).count_documents({}) for name in ("logins", "api_keys", "users")}
    assert of_eve == {"logins": 1, "api_keys": 2, "users": 1}
    assert await database.get_collection("refresh_tokens").count_documents({}) == 2
    assert await database.get_collection("refresh_answers").count_documents({}) == 1
    # the address is free again
    assert (await gateway.register("ada@example.com")).id != ada


async def test_every_credential_is_dead_before_anything_else_is_done(gateway: Gateway, database: Database) -> None:
    """I6, F9. Sessions are away here, so nothing else can have been done."""
    ada, keys = await ada_with_keys(gateway)
    tokens = await gateway.login("ada@example.com")
    login = jwt.decode(tokens.access_token, options={"verify_signature": False})["sid"]

    answer = await delete(gateway, ada, wait=0.0)

    assert (answer.status, answer.deleted_at, answer.deleted_data) == (DeletionState.PENDING, None, None)
    for refused in (
        gateway.check_key(keys[1]),
        gateway.check_token(ada, login),
        gateway.refresh(tokens.refresh_token),
        gateway.login("ada@example.com"),
        gateway.create_key(ada, new_key()),
        delete(gateway, ada),
    ):
        with pytest.raises(ApiError) as error:
            await refused
        assert error.value.kind.status == 401
    assert await database.get_collection("deletions").count_documents({}) == 1
    told = [item async for item in database.get_collection("outbox").find({"subject": "evt.auth.key.deactivated.v1"})]
    assert sorted(item["version"] for item in told) == [2, 2]


async def test_a_deletion_waits_for_services_that_are_away_and_is_then_completed(
    gateway: Gateway, nats_streams: NatsAccount
) -> None:
    ada, _ = await ada_with_keys(gateway)
    token = new_token()
    assert (await delete(gateway, ada, token, wait=1.0)).status is DeletionState.PENDING
    neighbours = Neighbours()
    await neighbours.come(nats_streams)
    try:
        await until(lambda: is_complete(gateway, token), within=PATIENCE)
    finally:
        await neighbours.leave()
    assert (await status(gateway, token)).deleted_data == TRUE_FIGURES


async def test_nothing_is_erased_while_anything_is_open_on_chain(
    gateway: Gateway, database: Database, neighbours: Neighbours
) -> None:
    """F9: a stake of a user nobody knows any more would be forgotten."""
    neighbours.open = [2, 1]
    neighbours.early = 2
    ada, _ = await ada_with_keys(gateway)
    token = new_token()
    await delete(gateway, ada, token, wait=0.0)
    await until(lambda: is_complete(gateway, token), within=PATIENCE)
    asked = [verb for verb, _ in neighbours.asked]
    assert asked[:3] == ["sessions.close_user"] * 3
    # what was refused is asked again from the start: something may have appeared
    assert asked[3:] == ["sessions.erase_user", "sessions.close_user"] * 2 + ["sessions.erase_user", ELSEWHERE[2]]
    assert await database.get_collection("users").count_documents({}) == 0


async def test_the_same_command_again_joins_the_deletion_and_another_finds_no_account(
    gateway: Gateway, database: Database, neighbours: Neighbours
) -> None:
    ada, _ = await ada_with_keys(gateway)
    token = new_token()
    first = await delete(gateway, ada, token)
    assert await delete(gateway, ada, token) == first
    with pytest.raises(ApiError, match="invalid_token"):
        await delete(gateway, ada)
    assert len(neighbours.asked) == 3
    assert await database.get_collection("deletions").count_documents({}) == 1


@pytest.mark.usefixtures("neighbours")
async def test_a_complete_deletion_names_nobody_and_is_kept_for_thirty_days(
    gateway: Gateway, database: Database
) -> None:
    ada, _ = await ada_with_keys(gateway)
    token = new_token()
    await delete(gateway, ada, token)
    kept = await database.get_collection("deletions").find_one({})
    assert kept is not None
    assert (kept["_id"], kept["user_id"]) == (token, None)
    expiry = (await database.get_collection("deletions").index_information())["expiry"]
    assert (expiry["key"], expiry["expireAfterSeconds"]) == ([("completed_at", 1)], 30 * 86_400)
    with pytest.raises(ApiError, match="deletion_not_found"):
        await status(gateway, new_token())


@pytest.mark.usefixtures("neighbours")
async def test_subscribers_are_told_once_by_id_only_after_the_users_other_events(
    gateway: Gateway, database: Database
) -> None:
    ada, _ = await ada_with_keys(gateway)
    await delete(gateway, ada)
    rows = [item async for item in database.get_collection("outbox").find({"entity": ada}).sort("version", 1)]
    assert [(row["version"], row["subject"]) for row in rows] == [
        (1, "evt.auth.user.registered.v1"),
        (2, "evt.auth.user.deleted.v1"),
    ]
    assert rows[1]["payload"] == f'{{"user_id":"{ada}"}}'


@pytest.mark.usefixtures("neighbours")
async def test_a_login_that_comes_late_leaves_nothing_of_its_user(
    gateway: Gateway, settings: AuthSettings, database: Database
) -> None:
    """The password was right when it was checked; the account went before the login was written."""
    ada, _ = await ada_with_keys(gateway)
    user = await UserDocument.get(ada)
    assert user is not None
    proven = Proven(user_id=ada, password_hash=user.password_hash, address="")
    await delete(gateway, ada)
    # the worker's own: a transaction belongs to one client
    client = UserDocument.get_pymongo_collection().database.client
    keyring = Keyring(LocalKeyEncryption(settings.keyring))
    signing = SigningKeys()
    await KeyRotation(keyring, signing, token_lifetime=60).load(utc_now)
    week = timedelta(days=7)
    logins = Logins(
        client=client,
        audit=Audit(client, await load_audit_keys(keyring, utc_now)),
        access_tokens=AccessTokens(keys=signing, issuer="i", audience="a", lifetime=60),
        refresh_lifetime=week,
        login_lifetime=week,
        clock=utc_now,
    )
    with pytest.raises(ApiError, match="invalid_credentials"):
        await logins.start(proven)
    assert await database.get_collection("logins").count_documents({}) == 0
    assert await database.get_collection("refresh_tokens").count_documents({}) == 0


async def any_subject(_: Arrival) -> bool:
    return True


@pytest.mark.usefixtures("short_transactions")
async def test_a_worker_killed_at_any_step_leaves_a_deletion_that_is_completed_with_true_figures(
    settings: AuthSettings,
    database: Database,
    idle_gateway: Gateway,
    neighbours: Neighbours,
    controller: Controller,
    tmp_path: Path,
) -> None:
    """K16. The process that takes over from one that was killed is the one that is killed at the next step."""
    gateway, log = idle_gateway, tmp_path / "log"
    killed: list[tuple[Step, str, str]] = []
    for step in [*OWN_STEPS, None]:
        async with process(settings, "a", log, STEP_PROBE=str(controller.path)) as worker:
            await until(answered_by(gateway, "a"), within=PATIENCE)
            for killed_at, ada, token in killed:
                if killed_at in UNWRITTEN:
                    await until(partial(is_begun, gateway, ada, token), within=PATIENCE)
                await until(partial(is_complete, gateway, token), within=PATIENCE)
                assert (await status(gateway, token)).deleted_data == TRUE_FIGURES, killed_at
                assert neighbours.verbs(ada) == ELSEWHERE, killed_at
                told = {"subject": "evt.auth.user.deleted.v1", "entity": ada}
                assert await database.get_collection("outbox").count_documents(told) == 1, killed_at
                assert await database.get_collection("users").count_documents({"_id": ada}) == 0, killed_at
            killed.clear()
            if step is None:
                break
            trap = controller.set_trap(step.number, any_subject)
            ada, _ = await ada_with_keys(gateway, f"ada-{step.number}@example.com")
            token = new_token()
            killed.append((step, ada, token))
            connection = gateway.rpc._connection
            command = DeleteAccount(user_id=ada, token_sha256=token, wait=5.0)
            await connection.publish(
                DELETE_ACCOUNT.subject, command.model_dump_json().encode(), reply=connection.new_inbox()
            )
            async with asyncio.timeout(PATIENCE):
                await trap.caught
            worker.kill()
            await worker.wait()
            controller.remove(trap)


@pytest.mark.usefixtures("neighbours")
async def test_a_deletion_whose_worker_is_gone_for_good_is_carried_on_by_another(
    settings: AuthSettings, idle_gateway: Gateway, controller: Controller, tmp_path: Path
) -> None:
    impatient = {"STEP_PROBE": str(controller.path), "LEASE_SECONDS": "1"}
    trap = controller.set_trap(Step.USER_CLOSED.number, any_subject)
    async with process(settings, "a", tmp_path / "log", **impatient) as gone:
        await until(answered_by(idle_gateway, "a"), within=PATIENCE)
        ada, _ = await ada_with_keys(idle_gateway)
        token = new_token()
        assert (await delete(idle_gateway, ada, token, wait=0.0)).status is DeletionState.PENDING
        await trap.caught
        gone.kill()
        await gone.wait()
    async with serve(settings.model_copy(update={"worker_id": "b", "lease_seconds": 1.0})):
        await until(lambda: is_complete(idle_gateway, token), within=PATIENCE)
        assert (await status(idle_gateway, token)).deleted_data == TRUE_FIGURES
