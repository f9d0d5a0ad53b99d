"""Makes the MongoDB of a deployment what the services expect: a replica set with its users. Repeatable."""

import json
from collections.abc import Mapping
from typing import Any, Self
from urllib.parse import parse_qsl, urlencode

from morpheus_common.settings import EnvironmentSettings
from pydantic import SecretStr, ValidationError
from pydantic_settings import SettingsConfigDict
from pymongo import AsyncMongoClient
from pymongo.errors import OperationFailure, PyMongoError
from pymongo.uri_parser import parse_uri

from morpheus_devstack.errors import StackError, names_of_settings
from morpheus_devstack.mongo_setup import AUTHENTICATION_FAILED, MongoClient, initiate, make_root, make_users
from morpheus_devstack.waiting import poll

SERVER_SELECTION_MS = 2_000
"""A server that does not answer is asked again; one that starts takes seconds."""
ASK_SECONDS = 0.5


class PrepareSettings(EnvironmentSettings):
    """Which database is prepared. Environment variables and files, names in upper case."""

    model_config = SettingsConfigDict(extra="ignore", hide_input_in_errors=True)

    mongo_url: SecretStr
    """Of the user root, with all members and `replicaSet`."""
    mongo_users: SecretStr
    """Passwords of the other users, JSON by name."""
    mongo_member_key: SecretStr | None = None
    """What the servers know each other by: whoever has it may make a set of them from another machine."""

    @classmethod
    def read(cls) -> Self:
        """Return what the environment says.

        Raises:
            StackError: it does not say enough.
        """
        try:
            return cls()
        except ValidationError as error:
            raise StackError(
                f"The environment does not say which database is prepared: {names_of_settings(error)} missing."
            ) from error

    @property
    def users(self) -> dict[str, str]:
        """The passwords, by name.

        Raises:
            StackError: that is not what stands there.
        """
        try:
            return {
                str(name): str(password) for name, password in json.loads(self.mongo_users.get_secret_value()).items()
            }
        except (ValueError, AttributeError) as error:
            raise StackError('MONGO_USERS is not what it should be: {"auth": "<password>", …}.') from error


async def prepare(url: str, users: Mapping[str, str], *, seconds: float, member_key: str | None = None) -> None:
    """Make the servers that `url` names a replica set if they are none, and make or renew `users`. Waits `seconds` for them.
    With a `member_key` it need not run on the machine of the first member.

    Raises:
        StackError: `url` does not say enough, there is no set with a primary in time, or the database refuses.
    """
    try:
        known = parse_uri(url)
    except (PyMongoError, ValueError) as error:
        raise StackError("MONGO_URL is no MongoDB URL.") from error  # what it is may be a secret
    replica_set = known["options"].get("replicaSet")
    if not (replica_set and known["password"]):
        raise StackError("MONGO_URL has to name the replica set, and root with its password.")
    members = [f"{host}:{port}" for host, port in known["nodelist"]]
    try:
        await _until_it_is_a_set(url, replica_set, members, known["password"], seconds, member_key)
        root: MongoClient
        async with AsyncMongoClient(url, serverSelectionTimeoutMS=int(seconds * 1000), w="majority") as root:
            await make_users(root, users)
    except PyMongoError as error:
        raise StackError(f"The database could not be prepared: {error}.") from error


async def _until_it_is_a_set(
    url: str, replica_set: str, members: list[str], password: str, seconds: float, member_key: str | None
) -> None:
    """Let the first member make the set, until it is one and has a primary.

    root is there already where the server's image has made it. Where it has not, the server lets nobody in but who is on its
    own machine, and that only until there is a user; or who shows the key of the members, and is taken for one of them.
    """
    last = "it has no primary"

    async def is_a_set() -> bool:
        nonlocal last
        known: MongoClient
        anyone: MongoClient
        try:
            async with _direct(url, members[0]) as known, _as_member(url, members[0], member_key) as anyone:
                if not (await anyone.admin.command("hello")).get("setName"):
                    try:
                        await initiate(known, replica_set, members)
                    except OperationFailure as error:
                        if error.code != AUTHENTICATION_FAILED:
                            raise
                        last = "it does not know root, or not this password"
                        await initiate(anyone, replica_set, members)
                hello = await anyone.admin.command("hello")
                if hello.get("isWritablePrimary"):
                    await make_root(anyone, password)
                    return True
                primary = hello.get("primary")
                # who was just elected is known as primary before he takes writes
                if primary in {None, hello.get("me")}:
                    return False
                if member_key is not None:
                    async with _as_member(url, primary, member_key) as there:
                        await make_root(there, password)
                return True
        except PyMongoError as error:
            last = str(error)
            return False

    if not await poll(is_a_set, seconds=seconds, every=ASK_SECONDS):
        raise StackError(f"{members[0]} is no replica set with a primary after {seconds:.0f} s: {last}.")


def _as_member(url: str, member: str, key: str | None) -> MongoClient:
    """Return a client of one member that is taken for another member; without a key, for anybody."""
    if key is None:
        return _direct(url, member, login=False)
    return _direct(url, member, login=False, username="__system", password="".join(key.split()), authSource="local")


def _direct(url: str, member: str, *, login: bool = True, **of_another: Any) -> MongoClient:
    """Return a client of one member alone, encrypted as `url` says."""
    authority, _, query = url.removeprefix("mongodb://").partition("/?")
    credentials = authority.rpartition("@")[0]
    dropped = {"replicaSet"} if login else {"replicaSet", "authSource", "authMechanism"}
    options = [(name, value) for name, value in parse_qsl(query) if name not in dropped]
    target = f"{credentials}@{member}" if login else member
    return AsyncMongoClient(
        f"mongodb://{target}/?{urlencode([*options, ('directConnection', 'true')])}",
        serverSelectionTimeoutMS=SERVER_SELECTION_MS,
        **of_another,
    )
