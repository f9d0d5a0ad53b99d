"""`morpheus prepare-mongo` at a mongod that asks everybody who he is, as a deployment starts it."""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from morpheus_devstack.certificates import make_certificates
from morpheus_devstack.errors import StackError
from morpheus_devstack.ports import LOOPBACK, accepts_connections, free_ports
from morpheus_devstack.prepare_mongo import prepare
from morpheus_devstack.servers import READY_SECONDS, MongoServer
from morpheus_devstack.waiting import poll
from pymongo import AsyncMongoClient
from pymongo.errors import OperationFailure

from tests.servers import running

USERS = {name: f"password-of-{name}" for name in ("auth", "sessions", "automation", "ops")}
MEMBER_KEY = "a2V5IG9mIG1lbWJlcnMgZm9yIHRoaXMgdGVzdCBhbG9uZQ=="


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MongoServer]:
    """A mongod that had no user and was never told of a replica set, prepared once."""
    folder = tmp_path_factory.mktemp("mongo")
    server = MongoServer(folder, free_ports(1)[0], folder / "mongod.log", "password-of-root")
    with running(server.configure(member_key=MEMBER_KEY)):
        asyncio.run(prepare(url(server), USERS, seconds=60))
        yield server


def url(server: MongoServer, user: str = "root", password: str | None = None) -> str:
    return f"mongodb://{user}:{password or f'password-of-{user}'}@{server.address}/?replicaSet=rs0&authSource=admin"


def client(server: MongoServer, user: str, passwords: Mapping[str, str] = USERS) -> AsyncMongoClient[dict[str, Any]]:
    return AsyncMongoClient(url(server, user, passwords[user]), serverSelectionTimeoutMS=5_000)


async def test_a_mongod_becomes_a_replica_set_with_users_who_have_a_database_each(server: MongoServer) -> None:
    async with client(server, "sessions") as sessions:
        await sessions["sessions"]["sessions"].insert_one({"_id": 1})
        with pytest.raises(OperationFailure) as refused:
            await sessions["auth"]["users"].find_one()
    assert refused.value.code == 13
    async with client(server, "ops") as ops:
        assert await ops["sessions"]["sessions"].find_one() == {"_id": 1}


async def test_auth_appends_to_the_audit_log_and_cannot_change_it(server: MongoServer) -> None:
    async with client(server, "auth") as auth:
        log = auth["auth"]["audit"]
        await log.insert_one({"_id": 1})
        for act in (log.delete_one({"_id": 1}), log.update_one({"_id": 1}, {"$set": {"by": "nobody"}}), log.drop()):
            with pytest.raises(OperationFailure) as refused:
                await act
            assert refused.value.code == 13
        assert await log.find_one() == {"_id": 1}
        await auth["auth"]["users"].insert_one({"_id": 1})
        await auth["auth"]["users"].delete_one({"_id": 1})


async def test_repeated_it_renews_passwords_and_keeps_what_is_stored(server: MongoServer) -> None:
    async with client(server, "automation") as automation:
        await automation["automation"]["settings"].insert_one({"_id": 1})
    renewed = USERS | {"automation": "another"}
    await prepare(url(server), renewed, seconds=60)
    async with client(server, "automation", renewed) as automation:
        assert await automation["automation"]["settings"].find_one() == {"_id": 1}
    async with client(server, "automation") as old:
        with pytest.raises(OperationFailure):
            await old["automation"]["settings"].find_one()


async def test_a_wrong_password_of_root_changes_nothing_and_is_said_without_it(server: MongoServer) -> None:
    with pytest.raises(StackError) as refused:
        await prepare(url(server, password="planted"), USERS | {"ops": "taken over"}, seconds=5)
    assert "Authentication failed" in str(refused.value)
    assert "planted" not in str(refused.value)
    async with client(server, "ops") as ops:
        await ops["sessions"]["sessions"].find_one()


async def test_who_has_the_members_key_prepares_encrypted_servers_from_another_machine(tmp_path: Path) -> None:
    make_certificates(tmp_path, {"mongodb": [LOOPBACK]})
    strange = MongoServer(tmp_path, free_ports(1)[0], tmp_path / "mongod.log")
    command = strange.configure(member_key=MEMBER_KEY)
    argv = [*command.argv, "--setParameter", "enableLocalhostAuthBypass=false", "--tlsMode", "requireTLS"]
    argv += [
        "--tlsCertificateKeyFile",
        str(tmp_path / "mongodb" / "server.pem"),
        "--tlsCAFile",
        str(tmp_path / "ca.crt"),
    ]
    argv += ["--tlsAllowConnectionsWithoutCertificates"]
    encrypted = f"{url(strange)}&tls=true&tlsCAFile={tmp_path / 'ca.crt'}"
    with running(replace(command, argv=argv)):
        # PyMongo leaks the socket of an encrypted connection that is refused
        assert await poll(lambda: accepts_connections(strange.port), seconds=READY_SECONDS)
        await prepare(encrypted, USERS, seconds=60, member_key=f"{MEMBER_KEY}\n")
        await prepare(encrypted, USERS, seconds=60, member_key=MEMBER_KEY)
        known: AsyncMongoClient[dict[str, Any]]
        async with AsyncMongoClient(encrypted) as known:
            assert {user["user"] for user in (await known.admin.command("usersInfo"))["users"]} == {"root", *USERS}


async def test_a_server_that_is_not_there_is_waited_for_and_then_named(tmp_path: Path) -> None:
    absent = MongoServer(tmp_path, free_ports(1)[0], tmp_path / "mongod.log")
    with pytest.raises(StackError, match=f"{absent.address} is no replica set with a primary after 1 s"):
        await prepare(url(absent), USERS, seconds=1)
