"""What makes a MongoDB ready for the services: the replica set, and users with the rights that each needs.

The development stack does it to its own mongod, `morpheus prepare-mongo` to that of a deployment.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import morpheus_auth.documents
from morpheus_common.bus.names import User
from morpheus_common.store import leases, workers
from pymongo import AsyncMongoClient
from pymongo.errors import OperationFailure

MongoClient = AsyncMongoClient[dict[str, Any]]

STORES: Final = (User.AUTH, User.SESSIONS, User.AUTOMATION)
"""The services with a database; it bears the service's name, and so does its user."""
ROOT: Final = "root"
APPENDER: Final = "auditWriter"
"""The role of auth's user: all of its database, but of the audit log nothing that was written is changed or deleted."""
UNAUTHORIZED: Final = 13
AUTHENTICATION_FAILED: Final = 18
ALREADY_INITIALIZED: Final = 23
USER_EXISTS: Final = 51_003
"""MongoDB's error codes."""

_READ: Final = ("find", "listCollections", "listIndexes", "collStats", "dbStats")
_WRITE: Final = ("insert", "update", "remove")
_AUDIT: Final[Mapping[str, Sequence[str]]] = {"audit": ("insert",), "audit_head": ("insert", "update")}


async def initiate(client: MongoClient, replica_set: str, members: Sequence[str]) -> bool:
    """Make the server that `client` speaks to, and the others, a replica set of `members` (host:port each). False when it is
    one already, or when it has users and the client is none of them.

    A server without users lets anybody on its own machine do that and make the first user; with users it refuses.
    """
    config = {"_id": replica_set, "members": [{"_id": number, "host": host} for number, host in enumerate(members)]}
    try:
        await client.admin.command("replSetInitiate", config)
    except OperationFailure as error:
        if error.code in {ALREADY_INITIALIZED, UNAUTHORIZED}:
            return False
        raise
    return True


async def make_root(anyone: MongoClient, password: str) -> None:
    """Make the first user, who makes the others. When there is one already mongod refuses, and nothing happens."""
    try:
        await anyone.admin.command("createUser", ROOT, pwd=password, roles=["root"])
    except OperationFailure as error:
        if error.code not in {UNAUTHORIZED, USER_EXISTS}:
            raise


async def make_users(root: MongoClient, passwords: Mapping[str, str]) -> None:
    """Make or renew the users in `passwords` (by name) with the roles of `roles_of`; `root` itself is left alone."""
    if User.AUTH in passwords:
        await _make_appender(root)
    present = {user["user"] for user in (await root.admin.command("usersInfo"))["users"]}
    for name, password in passwords.items():
        if name != ROOT:
            command = "updateUser" if name in present else "createUser"
            await root.admin.command(command, name, pwd=password, roles=roles_of(name))


def roles_of(user: str) -> list[dict[str, str]]:
    """Return the roles of a MongoDB user: a service has its own database and no other; operators make indexes, read, and
    see what the server does.
    """
    if user == User.OPS:
        roles = [{"role": role, "db": store.value} for store in STORES for role in ("dbAdmin", "read")]
        return [*roles, {"role": "clusterMonitor", "db": "admin"}]
    return [{"role": APPENDER if user == User.AUTH else "readWrite", "db": user}]


def appender_privileges() -> list[dict[str, Any]]:
    """Return what auth's user may do: `readWrite` without the audit log (decision 0019), a collection at a time."""
    # Beanie knows a collection's name only once it is connected
    names: set[str] = {vars(document)["Settings"].name for document in morpheus_auth.documents.DOCUMENTS}
    names |= {leases.COLLECTION, workers.COLLECTION}
    writes = [
        {"resource": {"db": User.AUTH.value, "collection": name}, "actions": list(_AUDIT.get(name, _WRITE))}
        for name in sorted(names)
    ]
    return [{"resource": {"db": User.AUTH.value, "collection": ""}, "actions": list(_READ)}, *writes]


async def _make_appender(root: MongoClient) -> None:
    database = root.get_database(User.AUTH)
    known = (await database.command("rolesInfo", APPENDER))["roles"]
    command = "updateRole" if known else "createRole"
    await database.command(command, APPENDER, privileges=appender_privileges(), roles=[])
