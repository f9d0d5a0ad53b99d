"""The secrets of a deployment: a folder for each part of it, in it files that bear names of settings (`SECRETS_DIR`).

What is drawn at random is made once and never overwritten. What follows from it (public keys, configurations, lists) is written
anew each time, so that a file can be taken away and made again, and a new version's rights reach the servers.
"""

import json
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlencode

from morpheus_common.bus.names import ACCOUNT, User
from morpheus_common.bus.permissions import render_server_config
from pymongo.errors import PyMongoError
from pymongo.uri_parser import parse_uri

from morpheus_devstack.errors import StackError
from morpheus_devstack.mongo_setup import ROOT, STORES
from morpheus_devstack.secrets import new_seed, public_key, random_base64

ROUTER_USER = "admin"
SERVER_FILE_MODE = 0o400
"""mongod refuses a key that others than its owner may read."""


@dataclass(frozen=True)
class Deployment:
    """Where the parts of a deployment reach each other. `routers`: address by name; none leaves what is there."""

    mongo_hosts: str = "mongodb:27017"
    replica_set: str = "rs0"
    mongo_options: Mapping[str, str] = field(default_factory=dict)
    valkey: str = "valkey:6379"
    routers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Owners:
    """Numeric users that may read the files; None leaves them to whoever runs the command."""

    services: int | None = None
    mongodb: int | None = None
    grafana: int | None = None

    def of(self, folder: str) -> int | None:
        """Return whose the files of a folder are."""
        return {"mongodb": self.mongodb, "grafana": self.grafana}.get(folder) or self.services


class SecretFolder:
    """Reads and writes the files, and remembers which it made."""

    def __init__(self, path: Path, owners: Owners) -> None:
        self._path = path
        self._owners = owners
        self.made: list[str] = []

    def read(self, name: str) -> str | None:
        """Return what a file holds, None if there is none.

        Raises:
            StackError: it cannot be read.
        """
        try:
            return (self._path / name).read_text().strip()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StackError(f"{self._path / name} cannot be read: {error.strerror}.") from error

    def once(self, name: str, make: Callable[[], str]) -> str:
        """Return what a file holds; what `make` returns if there was none, which it then holds."""
        known = self.read(name)
        if known is not None:
            return known
        value = make()
        self.write(name, value)
        self.made.append(name)
        return value

    def write(self, name: str, value: str) -> None:
        """Let a file hold `value`, readable by its owner alone. It is there whole, or as it was.

        Raises:
            StackError: it cannot be written, or not be given to its owner.
        """
        path = self._path / name
        scratch = path.with_name(f".{path.name}.new")
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o711)
            scratch.unlink(missing_ok=True)
            with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, SERVER_FILE_MODE), "w") as file:
                file.write(value)
                file.flush()
                os.fsync(file.fileno())
            owner = self._owners.of(path.parent.name)
            if owner is not None:
                os.chown(scratch, owner, owner)
            scratch.replace(path)
        except OSError as error:
            raise StackError(f"{path} cannot be written: {error.strerror}.") from error


def make_secrets(folder: SecretFolder, deployment: Deployment) -> None:
    """Make what is missing of a deployment's secrets, and what follows from them anew. What data at rest depends on is made
    with the first of them, and never again.

    Raises:
        StackError: a file cannot be read or written, or does not hold what it should.
    """
    if folder.read("nats/keys.json") is not None:
        for name in ("AUTH_PEPPERS", "AUTH_KEYRING"):
            if folder.read(f"auth/{name}") is None:
                raise StackError(
                    f"auth/{name} is gone. A new one would open nothing of what the old one closed: put the old one back, or "
                    "begin in an empty folder with an empty database."
                )
    seeds = {user: folder.once(f"{user}/NATS_SEED", new_seed) for user in User}
    _server_of_the_bus(folder, seeds)
    _database(folder, deployment)
    for name in ("AUTH_PEPPERS", "AUTH_KEYRING"):
        folder.once(f"auth/{name}", lambda: f"1:{random_base64(32)}")
    _limits(folder, deployment)
    _routers(folder, deployment)
    folder.once("grafana/admin-password", _password)


def _password() -> str:
    return secrets.token_urlsafe(24)


def _server_of_the_bus(folder: SecretFolder, seeds: Mapping[User, str]) -> None:
    try:
        keys = {user: public_key(seed) for user, seed in seeds.items()}
    except ValueError as error:  # nkeys raises it for every seed that is none
        raise StackError(
            "A file NATS_SEED holds no seed of an NKey (SU…); take it away, and a new one is made."
        ) from error
    folder.write("nats/keys.json", json.dumps(keys, indent=2) + "\n")
    config = render_server_config(
        listen="0.0.0.0:4222", store_dir="/data", accounts={ACCOUNT: keys}, monitor="0.0.0.0:8222"
    )
    folder.write("nats/nats-server.conf", config)
    folder.once("nats/cluster-password", _password)


def _database(folder: SecretFolder, deployment: Deployment) -> None:
    options = {"replicaSet": deployment.replica_set, "authSource": "admin", **deployment.mongo_options}

    def url(user: str, password: str) -> str:
        credentials = f"{quote(user, safe='')}:{quote(password, safe='')}"
        return f"mongodb://{credentials}@{deployment.mongo_hosts}/?{urlencode(options, safe='/')}"

    users: dict[str, str] = {}
    for user in (*STORES, User.OPS):
        name = f"{user}/MONGO_URL"
        users[user] = _password_in(name, folder.once(name, lambda user=user: url(user, _password())))  # type: ignore[misc]  # mypy cannot infer a default
    root = folder.once("mongodb/root-password", _password)
    # 1024 characters are the most that mongod takes
    folder.once("mongodb/member.key", lambda: random_base64(96))
    folder.write("prepare-mongo/MONGO_URL", url(ROOT, root))
    folder.write("prepare-mongo/MONGO_USERS", json.dumps(users))


def _password_in(name: str, url: str) -> str:
    try:
        password = parse_uri(url, validate=False)["password"]
    except (PyMongoError, ValueError):
        password = None
    if not password:
        # what it holds is not shown: it is a secret, whatever it is
        raise StackError(f"{name} is no MongoDB URL with a password; take the file away, and a new one is made.")
    return str(password)


def _limits(folder: SecretFolder, deployment: Deployment) -> None:
    password = folder.once("valkey/password", _password)
    folder.write("gateway/LIMITS_URL", f"valkey://:{quote(password, safe='')}@{deployment.valkey}/0")
    # counters of minutes and a day: nothing that has to survive a restart
    lines = (f"requirepass {password}", 'save ""', "appendonly no", "maxmemory 64mb", "maxmemory-policy volatile-ttl")
    folder.write("valkey/valkey.conf", "".join(f"{line}\n" for line in lines))


def _routers(folder: SecretFolder, deployment: Deployment) -> None:
    if not deployment.routers:
        if folder.read("sessions/PROXY_ROUTERS") is None:
            raise StackError("No proxy-router is named: --router NAME=URL for each that there is.")
        return
    rows: Sequence[dict[str, str]] = [
        {"name": name, "url": url, "user": ROUTER_USER, "password": folder.once(f"routers/{name}", _password)}
        for name, url in deployment.routers.items()
    ]
    folder.write("sessions/PROXY_ROUTERS", json.dumps(rows))
