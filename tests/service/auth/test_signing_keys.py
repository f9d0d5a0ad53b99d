"""Signing keys follow each other without logging anyone out."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from morpheus_auth.settings import AuthSettings
from morpheus_auth.worker import serve
from morpheus_common.bus.names import User
from morpheus_common.bus.rpc import RpcClient
from morpheus_common.contracts.base import Empty
from morpheus_common.contracts.signing_keys import (
    LIST_SIGNING_KEYS,
    ROTATE_SIGNING_KEYS,
    RotateSigningKeys,
    SigningKeyRows,
)
from morpheus_common.errors import ApiError
from morpheus_common.store.mongo import Database
from pydantic import SecretStr

from tests.servers import NatsAccount
from tests.service.auth.harness import Gateway, answered_by, process, until, wiretap
from tests.service.command import Said, morpheus


class Operator:
    """Asks auth as `morpheus keys` does."""

    def __init__(self, rpc: RpcClient) -> None:
        self.rpc = rpc

    async def keys(self) -> SigningKeyRows:
        return await self.rpc.call(LIST_SIGNING_KEYS, Empty())

    async def rotate(self, revoke: str | None = None) -> SigningKeyRows:
        return await self.rpc.call(ROTATE_SIGNING_KEYS, RotateSigningKeys(revoke=revoke))

    async def states(self) -> list[str]:
        return [key.state.value for key in (await self.keys()).keys]


@pytest.fixture
async def operator(nats_streams: NatsAccount) -> AsyncIterator[Operator]:
    connection = await nats_streams.connect(User.OPS)
    yield Operator(RpcClient(connection))
    await connection.close()


async def let_pass(database: Database, *, seconds: int) -> None:
    """Let the signing keys be that much older."""
    earlier = {
        field: {
            "$cond": [
                {"$eq": [f"${field}", None]},
                None,
                {"$dateSubtract": {"startDate": f"${field}", "unit": "second", "amount": seconds}},
            ]
        }
        for field in ("created_at", "signs_from", "older_until")
    }
    await database.get_collection("signing_keys").update_many({}, [{"$set": earlier}])


async def published(gateway: Gateway) -> set[str]:
    return {key["kid"] for key in (await gateway.public_keys()).jwks["keys"]}


async def kid_of_a_new_login(gateway: Gateway) -> str:
    token = (await gateway.login("ada@example.com")).access_token
    kid: str = jwt.get_unverified_header(token)["kid"]
    return kid


async def test_a_rotation_publishes_then_signs_then_retires_and_no_token_dies_early(
    gateway: Gateway, operator: Operator, database: Database
) -> None:
    await gateway.register("ada@example.com")
    before = await gateway.login("ada@example.com")
    (old,) = await published(gateway)

    rows = await operator.rotate()
    new = rows.keys[0].kid
    assert [(key.kid, key.state.value) for key in rows.keys] == [(new, "published"), (old, "signing")]
    assert 179 <= (rows.keys[0].signs_from - rows.now).total_seconds() <= 180
    assert await published(gateway) == {old, new}
    assert await kid_of_a_new_login(gateway) == old

    async def new_signs() -> bool:
        return await kid_of_a_new_login(gateway) == new

    async def old_is_gone() -> bool:
        return await published(gateway) == {new}

    await let_pass(database, seconds=181)
    await until(new_signs)
    assert await operator.states() == ["signing", "retiring"]
    assert await published(gateway) == {old, new}
    # a token of 30 minutes, made a moment before the new key signed, and all that may delay it
    await let_pass(database, seconds=1800 + 290)
    assert await operator.states() == ["signing", "retiring"]
    await let_pass(database, seconds=20)
    await until(old_is_gone)
    assert [key["_id"] async for key in database.get_collection("signing_keys").find()] == [new]
    await gateway.refresh(before.refresh_token)


@pytest.mark.usefixtures("gateway")
async def test_rotating_while_a_rotation_is_under_way_changes_nothing(operator: Operator) -> None:
    first = await operator.rotate()
    assert (await operator.rotate()).keys == first.keys


async def test_a_revoked_key_is_gone_at_once_and_its_logins_go_on(
    gateway: Gateway, operator: Operator, database: Database
) -> None:
    await gateway.register("ada@example.com")
    before = await gateway.login("ada@example.com")
    (old,) = await published(gateway)
    await operator.rotate()
    rows = await operator.rotate(revoke=old)
    assert [key.state.value for key in rows.keys] == ["signing"], "what was published with it is withdrawn too"
    new = rows.keys[0].kid
    assert new != old
    assert await published(gateway) == {new}
    assert await kid_of_a_new_login(gateway) == new
    assert [key["_id"] async for key in database.get_collection("signing_keys").find()] == [new]
    await gateway.refresh(before.refresh_token)
    assert (await operator.rotate(revoke=old)).keys == rows.keys, "a key that is gone is not revoked again"


@pytest.mark.parametrize("revoking", [False, True])
async def test_operators_at_once_make_one_new_key(
    settings: AuthSettings, gateway: Gateway, operator: Operator, tmp_path: Path, revoking: bool
) -> None:
    async with process(settings, "auth-2", tmp_path / "log"):
        await until(answered_by(gateway, "auth-1", "auth-2"))
        (old,) = await published(gateway)
        answers = await asyncio.gather(*(operator.rotate(old if revoking else None) for _ in range(20)))
        assert len({answer.keys[0].kid for answer in answers}) == 1
        assert len((await operator.keys()).keys) == (1 if revoking else 2)


async def test_a_rotation_is_a_single_write(gateway: Gateway, operator: Operator, database: Database) -> None:
    """What kill -9 could cut in two is not there."""
    (old,) = await published(gateway)
    await database.command("profile", 2)
    await operator.rotate(revoke=old)
    await database.command("profile", 0)
    writes: list[dict[str, Any]] = [
        entry
        async for entry in database.get_collection("system.profile").find(
            {"ns": f"{database.name}.signing_keys", "op": {"$in": ["insert", "update"]}}
        )
    ]
    assert [write.get("nModified", 0) + write.get("nUpserted", write.get("upsert", 0)) for write in writes] == [1]


async def test_a_worker_that_is_killed_while_it_rotates_leaves_keys_that_work(
    settings: AuthSettings, idle_gateway: Gateway, operator: Operator, tmp_path: Path
) -> None:
    async with serve(settings):
        await idle_gateway.register("ada@example.com")
    for milliseconds in (0, 4, 12):
        async with process(settings, "a", tmp_path / "log") as worker:
            await until(answered_by(idle_gateway, "a"), within=60)
            signing = await kid_of_a_new_login(idle_gateway)
            rotating = asyncio.create_task(operator.rotate(revoke=signing))
            await asyncio.wait([rotating], timeout=milliseconds / 1000)
            worker.kill()
            await worker.wait()
            rotating.cancel()
            await asyncio.wait([rotating])
    async with serve(settings):
        rows = await operator.keys()
        assert [key.state.value for key in rows.keys] == ["signing"]
        assert await published(idle_gateway) == {rows.keys[0].kid}
        assert await kid_of_a_new_login(idle_gateway) == rows.keys[0].kid


async def test_all_workers_learn_of_a_new_key_by_themselves(
    settings: AuthSettings, gateway: Gateway, operator: Operator, tmp_path: Path
) -> None:
    async with process(settings, "auth-2", tmp_path / "log"):
        await until(answered_by(gateway, "auth-1", "auth-2"))
        new = (await operator.rotate()).keys[0].kid

        async def both_publish_it() -> bool:
            # whichever worker answers each of these
            return all([new in await published(gateway) for _ in range(20)])

        await until(both_publish_it)


async def test_a_worker_without_its_database_publishes_nothing_old_and_comes_back(
    settings: AuthSettings, mongo_url: str, idle_gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("morpheus_auth.signing.STALE_SECONDS", 3.0)

    async def is_refused() -> bool:
        try:
            await idle_gateway.public_keys()
        except ApiError as error:
            return error.code == "service_unavailable"
        return False

    async def answers() -> bool:
        return not await is_refused()

    async with wiretap(mongo_url) as tap:
        url = SecretStr(f"mongodb://{tap.address}/?directConnection=true")
        async with serve(settings.model_copy(update={"mongo_url": url, "mongo_timeout_ms": 500})):
            assert await answers()
            tap.cut()
            await until(is_refused)
            tap.mend()
            await until(answers)


async def morpheus_keys(account: NatsAccount, *arguments: str) -> Said:
    """Run `morpheus keys` as an operator would."""
    return await morpheus(account, "keys", *arguments)


async def test_an_operator_lists_rotates_and_revokes(
    nats_streams: NatsAccount, settings: AuthSettings, idle_gateway: Gateway
) -> None:
    code, _, err = await morpheus_keys(nats_streams, "list")
    assert (code, err) == (1, "morpheus: No auth worker answers on the bus.\n")
    async with serve(settings):
        (old,) = await published(idle_gateway)
        _, rotated, _ = await morpheus_keys(nats_streams, "rotate", "--json")
        rows = [json.loads(line) for line in rotated.splitlines()]
        assert [(row["state"], row["kid"] == old) for row in rows] == [("published", False), ("signing", True)]
        assert rows[0]["signs_from"] > rows[0]["created_at"]
        _, table, _ = await morpheus_keys(nats_streams, "list")
        lines = table.splitlines()
        assert lines[0].split() == ["KID", "STATE", "CREATED", "SIGNS", "FROM", "RETIRES"]
        assert [line.split()[:2] for line in lines[1:3]] == [[row["kid"], row["state"]] for row in rows]

        code, out, err = await morpheus_keys(nats_streams, "rotate", "--revoke-current")
        assert (code, out.strip()) == (1, "")
        assert "dies within a minute" in err, "it asks, and nobody says yes"
        assert old in await published(idle_gateway)
        _, revoked, _ = await morpheus_keys(nats_streams, "rotate", "--revoke-current", "--yes", "--json")
        (only,) = [json.loads(line) for line in revoked.splitlines()]
        assert only["state"] == "signing"
        assert await published(idle_gateway) == {only["kid"]}
