import asyncio
from dataclasses import replace
from functools import partial
from typing import Any

import bson
import pytest
from morpheus_common.bus.rpc import RpcClient
from morpheus_common.contracts.deletion import CLOSE_USER, ERASE_USER_SESSIONS, CloseUser, EraseUser
from morpheus_common.contracts.sessions import APPROVE_STAKE, ApproveStake, Idempotency
from morpheus_common.errors import ApiError
from morpheus_common.ids import uuid7
from morpheus_common.steps import DELETION_STEPS
from morpheus_sessions.documents import SessionDocument

from tests.faults.controller import Arrival, Controller
from tests.service.sessions.house import House, until
from tests.service.sessions.test_adversary import abandoned
from tests.service.sessions.test_operator import STILL, at_rest, forget, sessions

ADA, EVE = uuid7(), uuid7()
KEYS = [uuid7() for _ in range(3)]
PREFIX = "sk-abc"
QUICK: dict[str, Any] = {"reconcile_seconds": 0.2}
OWN_STEPS = [step for step in DELETION_STEPS if step.value.partition(" ")[2].startswith("sessions:")]
PATIENCE = 60.0


async def close_user(house: House, user_id: str = ADA) -> int:
    return (await RpcClient(house.auth).call(CLOSE_USER, CloseUser(user_id=user_id))).open


async def erase(house: House, user_id: str = ADA) -> int | None:
    return (await RpcClient(house.auth).call(ERASE_USER_SESSIONS, EraseUser(user_id=user_id))).count


async def is_closed(house: House, user_id: str = ADA) -> bool:
    try:
        return await close_user(house, user_id) == 0
    except ApiError:
        return False


async def is_erased(house: House, user_id: str = ADA) -> bool:
    try:
        return await erase(house, user_id) is not None
    except ApiError:
        # what a killed worker wrote in its transaction is in the way until the database gives it up
        return False


async def left_of(house: House, *texts: str) -> list[str]:
    """Which of these texts stand in any document but events, which hold ids as long as their stream does."""
    stored = []
    for name in set(await house.database.list_collection_names()) - {"outbox"}:
        stored += [bson.encode(document) async for document in house.database[name].find()]
    return [text for text in texts if text.encode() in b"\n".join(stored)]


async def test_a_user_is_closed_on_chain_then_erased_and_his_records_stay_without_him(house: House) -> None:
    """F9, I9: what has to be known for ever is kept, and names nobody."""
    wish = Idempotency(digest="1" * 64, fingerprint="2" * 64)
    async with house.worker(**QUICK):
        await house.gateway.open(KEYS[0], user=ADA, idempotency=wish)
        await house.gateway.open(KEYS[1], user=ADA)
        # one that was closed before is a record like the others
        await house.gateway.open(KEYS[2], user=ADA, model_id=house.gateway.model("qwen3-235b"))
        await house.gateway.close(KEYS[2])
        await house.gateway.open("k-eve", user=EVE)
        before = {item["chain_session"] for item in await house.sessions()}
        approvals = {item["approval"] for item in await house.operations(kind="open")}

        assert await close_user(house) == 2
        assert await erase(house) is None
        await until(lambda: is_closed(house))
        assert [await erase(house) for _ in range(3)] == [3, 3, 3]
        assert await close_user(house) == 0

        of_eve = await house.only_session(user_id=EVE)

    assert await left_of(house, ADA, *KEYS) == []
    assert {item["chain_session"] for item in await house.sessions()} == before
    assert {item["approval"] for item in await house.operations(kind="open")} == approvals
    nobody = {item["user_id"] for item in await house.sessions(user_id={"$ne": EVE})}
    assert {item["user_id"] for item in await house.operations()} == nobody | {EVE}
    assert not any(item["wanted"] for item in await house.sessions(user_id={"$ne": EVE}))
    assert [item["key_prefix"] for item in await house.sessions() if item["key_prefix"]] == [PREFIX]
    assert await house.database["idempotency"].count_documents({}) == 0
    assert [item["Id"] for item in await house.simulator.open_sessions()] == [of_eve["chain_session"]]
    assert of_eve["state"] == "active"


async def test_who_opened_very_many_sessions_is_erased_in_parts_and_counted_once(house: House) -> None:
    async with house.worker(**QUICK) as parts:
        for key in (*KEYS, uuid7(), uuid7()):
            await house.gateway.open(key, user=ADA)
        await until(lambda: is_closed(house))
        # each call is as one that died after a part
        hasty = replace(parts.erasing, batch=2, seconds=0.0)
        answers = [await hasty.erase(ADA)]
        while answers[-1] is None:
            assert len(answers) < 20
            assert len(await house.sessions(user_id=ADA)) == max(0, 5 - 2 * len(answers))
            answers.append(await hasty.erase(ADA))
        assert answers[-1] == 5
        assert len(answers) > 5
        assert await erase(house) == 5
    assert await left_of(house, ADA, *KEYS) == []


async def test_who_opened_nothing_is_closed_and_erased_at_once(house: House) -> None:
    async with house.worker():
        assert await close_user(house) == 0
        assert [await erase(house) for _ in range(2)] == [0, 0]


async def test_a_parked_session_and_one_that_is_opening_are_closed_too(house: House) -> None:
    async with house.worker(**QUICK) as parts:
        first = await house.gateway.open(KEYS[0], user=ADA)
        parked = await house.only_session(chain_session=first.session_id)
        await parts.journal.park(parked["_id"], "switched")
        await house.simulator.arm("open", "hang", stage="in_mempool")
        opening = asyncio.create_task(house.gateway.attempt_open(KEYS[1], user=ADA))
        await until(lambda: house.simulator.struck("open"))

        assert await close_user(house) == 2
        await house.simulator.disarm()
        await until(lambda: is_closed(house))
        assert await erase(house) == 2
        await opening

    assert await house.simulator.open_sessions() == []
    assert len(await house.simulator.sessions()) == 2


async def test_whatever_comes_of_a_deleted_user_is_refused_and_leaves_nothing(house: House) -> None:
    async with house.worker(**QUICK):
        await house.gateway.open(KEYS[0], user=ADA)
        assert await close_user(house) == 1
        # with a key that sessions never heard of, before and after he is erased
        assert await house.gateway.attempt_open(KEYS[1], user=ADA) == "invalid_api_key"
        await until(lambda: is_closed(house))
        assert await erase(house) == 1
        assert await house.gateway.attempt_open(KEYS[0], user=ADA) == "invalid_api_key"
        assert await house.gateway.attempt_open(KEYS[1], user=ADA) == "invalid_api_key"
        approve = ApproveStake(operation_id=uuid7(), user_id=ADA, key_id=KEYS[0], amount=10**18, wait=1.0)
        with pytest.raises(ApiError, match="invalid_api_key"):
            await house.gateway.rpc.call(APPROVE_STAKE, approve)

    assert await left_of(house, ADA, *KEYS) == []
    assert len(await house.simulator.sessions()) == 1


async def test_the_word_of_a_revoked_key_that_comes_late_brings_no_id_back(house: House) -> None:
    async with house.worker(**QUICK) as parts:
        await house.gateway.open(KEYS[0], user=ADA)
        await until(lambda: is_closed(house))
        await erase(house)
        assert await parts.journal.revoke(KEYS[0], ADA) == []
        assert await parts.journal.revoke(KEYS[1], ADA) == []
    assert await left_of(house, ADA, *KEYS) == []


async def test_opens_that_meet_the_deletion_leave_nothing_open_on_chain(house: House) -> None:
    """F9, F2: every open either never starts or is closed; two keys a user, so that no key's guard is enough."""
    users = [uuid7() for _ in range(5)]
    async with house.worker(**QUICK):

        async def open_and_delete(user_id: str) -> int | None:
            keys = [uuid7() for _ in range(3)]
            opens = [asyncio.create_task(house.gateway.attempt_open(key, user=user_id)) for key in keys]
            # so that the end falls into the middle of the opens of some
            await asyncio.sleep(0.01 * users.index(user_id))
            await until(partial(is_closed, house, user_id), within=PATIENCE)
            count = await erase(house, user_id)
            await asyncio.gather(*opens)
            assert await close_user(house, user_id) == 0
            assert await erase(house, user_id) == count
            return count

        counts = await asyncio.gather(*(open_and_delete(user_id) for user_id in users))
    assert None not in counts
    assert await house.simulator.open_sessions() == []
    assert await left_of(house, *users) == []
    assert {item["state"] for item in await house.sessions()} <= {"closed", "failed", "abandoned"}


async def test_what_an_erased_user_opened_and_is_mined_late_is_closed_and_names_nobody(house: House) -> None:
    """F9: the fingerprint of an open that was given up is watched for ever, whoever it was for."""
    async with house.worker(reconcile_seconds=3600) as parts:
        await at_rest(house)
        await house.simulator.arm("open", "hang", when="after")
        opening = asyncio.create_task(house.gateway.ask_open(KEYS[0], user=ADA, wait=0.5))
        await until(lambda: house.simulator.struck("open"))
        await opening
        await abandoned(house, parts, key_id=KEYS[0])
        assert await close_user(house) == 0
        assert await erase(house) == 1
        # the loop, which hangs in its call, still knows the operation as the user's
        await house.simulator.disarm()
        closed = await house.session_is("closed")

    assert closed["chain_session"] is not None
    assert await house.simulator.open_sessions() == []
    assert await left_of(house, ADA, *KEYS) == []


async def test_a_pass_that_read_a_session_before_its_user_was_erased_writes_no_id_of_his(house: House) -> None:
    async with house.worker(**STILL) as parts:
        row = await house.gateway.open(KEYS[0], user=ADA)
        await until(lambda: is_closed(house))
        stale = SessionDocument.model_validate(await house.only_session(chain_session=row.session_id))
        assert await erase(house) == 1
        # as if a block was undone: the chain shows it open again
        await parts.journal.close_again(stale)
        await house.session_is("closed", reason="came_back")

    assert len(await house.operations(kind="close")) == 2
    assert await left_of(house, ADA, *KEYS) == []


async def test_a_lost_session_of_a_deleted_user_is_recorded_for_nobody_and_closed(house: House) -> None:
    async with house.worker(**STILL):
        lost = await forget(house, await house.gateway.open(KEYS[0], user=ADA))
        assert await close_user(house) == 0
        assert await erase(house) == 0
        assert (await sessions(house, "adopt", lost, "--key", KEYS[0], "--user", ADA, "--yes")).code == 0
        closed = await house.session_is("closed")

    assert closed["chain_session"] == lost
    assert await house.simulator.open_sessions() == []
    assert await left_of(house, ADA, *KEYS) == []


@pytest.mark.usefixtures("short_transactions")
async def test_a_worker_killed_at_any_step_of_a_users_end_leaves_a_true_count_and_no_stake(
    house: House, controller: Controller
) -> None:
    """K16: erased, and the count not returned."""
    assert OWN_STEPS
    for step in OWN_STEPS:
        user_id, key_id = uuid7(), uuid7()
        async with house.process("w1", step_probe=str(controller.path), **QUICK) as worker:
            await house.gateway.open(key_id, user=user_id)
            trap = controller.set_trap(step.number, partial(_is_of, user_id))
            asking = asyncio.create_task(_end(house, user_id))
            async with asyncio.timeout(PATIENCE):
                await trap.caught
            worker.kill()
            controller.remove(trap)
            asking.cancel()
        async with house.worker("w1", **QUICK):
            await until(partial(is_closed, house, user_id), within=PATIENCE)
            await until(partial(is_erased, house, user_id), within=PATIENCE)
            assert await erase(house, user_id) == 1, step
        assert await house.simulator.open_sessions() == []
        assert await left_of(house, user_id, key_id) == [], step


async def _is_of(user_id: str, arrival: Arrival) -> bool:
    return arrival.subject == user_id


async def _end(house: House, user_id: str) -> None:
    await until(partial(is_closed, house, user_id), within=PATIENCE)
    await erase(house, user_id)
