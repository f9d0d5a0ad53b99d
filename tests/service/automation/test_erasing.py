import asyncio
import os
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
from morpheus_automation.settings import AutomationServiceSettings
from morpheus_automation.worker import serve
from morpheus_common.bus.names import User
from morpheus_common.bus.rpc import RpcClient
from morpheus_common.contracts.automation import GET_SETTINGS, PUT_SETTINGS, GetSettings, PutSettings
from morpheus_common.contracts.base import Empty
from morpheus_common.contracts.deletion import ERASE_USER_SETTINGS, EraseUser
from morpheus_common.contracts.health import PING
from morpheus_common.errors import ApiError
from morpheus_common.steps import DELETION_STEPS, Step
from morpheus_common.store.mongo import Database
from morpheus_devstack.waiting import poll

from tests.faults.controller import Arrival, Controller
from tests.servers import NatsAccount
from tests.service.auth.harness import dump

ADA, EVE = "01a21a00-0000-7000-8000-00000000ada0", "01a21a00-0000-7000-8000-00000000e0e0"
OWN_STEPS = [step for step in DELETION_STEPS if step.value.partition(" ")[2].startswith("automation:")]
PATIENCE = 60.0


@pytest.fixture
async def auth(nats_streams: NatsAccount) -> AsyncIterator[RpcClient]:
    """An auth worker on the bus."""
    connection = await nats_streams.connect(User.AUTH)
    yield RpcClient(connection)
    await connection.close()


async def erase(auth: RpcClient, user_id: str = ADA) -> int | None:
    return (await auth.call(ERASE_USER_SETTINGS, EraseUser(user_id=user_id), timeout=15)).count


@pytest.mark.usefixtures("worker")
async def test_settings_are_erased_and_the_count_is_the_same_on_every_repeat(
    auth: RpcClient, gateway: RpcClient, database: Database
) -> None:
    await gateway.call(GET_SETTINGS, GetSettings(user_id=ADA))
    await gateway.call(PUT_SETTINGS, PutSettings(user_id=EVE, is_enabled=True))
    assert [await erase(auth) for _ in range(3)] == [1, 1, 1]
    assert ADA.encode() not in await dump(database)
    assert (await gateway.call(GET_SETTINGS, GetSettings(user_id=EVE))).is_enabled


@pytest.mark.usefixtures("worker")
async def test_who_never_had_settings_had_none(auth: RpcClient) -> None:
    assert [await erase(auth) for _ in range(2)] == [0, 0]


@pytest.mark.usefixtures("worker")
async def test_a_request_that_comes_after_the_deletion_brings_nothing_back(
    auth: RpcClient, gateway: RpcClient, database: Database
) -> None:
    """A gateway may admit a request for 0.8 s after the credentials have died."""
    await gateway.call(GET_SETTINGS, GetSettings(user_id=ADA))
    await erase(auth)
    for late in (
        gateway.call(GET_SETTINGS, GetSettings(user_id=ADA)),
        gateway.call(PUT_SETTINGS, PutSettings(user_id=ADA, is_enabled=True)),
        gateway.call(PUT_SETTINGS, PutSettings(user_id=ADA)),
    ):
        with pytest.raises(ApiError, match="invalid_token"):
            await late
    assert ADA.encode() not in await dump(database)


@pytest.mark.usefixtures("worker")
async def test_first_requests_that_meet_the_deletion_leave_nothing_of_the_user(
    auth: RpcClient, gateway: RpcClient, database: Database
) -> None:
    async def ask(user_id: str, *, changes: bool) -> None:
        try:
            if changes:
                await gateway.call(PUT_SETTINGS, PutSettings(user_id=user_id, is_enabled=True))
            else:
                await gateway.call(GET_SETTINGS, GetSettings(user_id=user_id))
        except ApiError as error:
            if error.code != "invalid_token":
                raise

    users = [f"{ADA[:-2]}{number:02}" for number in range(20)]
    for user_id in users:
        counts = await asyncio.gather(
            ask(user_id, changes=False), ask(user_id, changes=True), erase(auth, user_id), ask(user_id, changes=True)
        )
        assert await erase(auth, user_id) == counts[2]
    assert await database.get_collection("automation_settings").count_documents({}) == 0
    await database.get_collection("outbox").delete_many({})
    assert ADA[:-2].encode() not in await dump(database)


@pytest.mark.usefixtures("short_transactions")
async def test_a_worker_killed_while_it_erases_leaves_a_true_count(
    settings: AutomationServiceSettings,
    database: Database,
    auth: RpcClient,
    gateway: RpcClient,
    controller: Controller,
    tmp_path: Path,
) -> None:
    """K16: erased, and the count not returned."""
    assert OWN_STEPS
    settings = settings.model_copy(update={"mongo_database": database.name})
    for step in OWN_STEPS:
        await _kill_at(step, settings, controller, gateway, auth, tmp_path / "log")
        async with serve(settings):
            assert await poll(partial(_is_erased, auth, step.number), seconds=PATIENCE)
            assert await erase(auth, step.number) == 1
    assert await database.get_collection("automation_settings").count_documents({}) == 0


async def _is_erased(auth: RpcClient, user_id: str) -> bool:
    try:
        return await erase(auth, user_id) is not None
    except ApiError:
        # what the killed process wrote in its transaction is in the way until the database gives it up
        return False


async def _kill_at(
    step: Step,
    settings: AutomationServiceSettings,
    controller: Controller,
    gateway: RpcClient,
    auth: RpcClient,
    log: Path,
) -> None:
    """Have a real worker erase the settings of a user named like the step, and kill it there."""

    async def of_step(arrival: Arrival) -> bool:
        return arrival.subject == step.number

    async def is_up() -> bool:
        try:
            await gateway.call(PING[User.AUTOMATION], Empty(), timeout=1.0)
        except ApiError:
            return False
        return True

    environment = {
        "PATH": os.environ["PATH"],
        "MONGO_URL": settings.mongo_url.get_secret_value(),
        "MONGO_DATABASE": settings.mongo_database,
        "NATS_URL": settings.nats_url,
        "NATS_SEED": settings.nats_seed.get_secret_value(),
        "WORKER_ID": settings.worker_id,
        "STEP_PROBE": str(controller.path),
    }
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "morpheus_automation", env=environment, stdout=output, stderr=output
        )
    try:
        assert await poll(is_up, seconds=PATIENCE)
        await gateway.call(GET_SETTINGS, GetSettings(user_id=step.number), timeout=15)
        trap = controller.set_trap(step.number, of_step)
        asking = asyncio.create_task(erase(auth, step.number))
        async with asyncio.timeout(PATIENCE):
            await trap.caught
        process.kill()
        await process.wait()
        controller.remove(trap)
        asking.cancel()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
