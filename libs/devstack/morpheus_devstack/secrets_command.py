"""`morpheus secrets`: what a deployment keeps secret, as files."""

import re
from pathlib import Path
from typing import Annotated

import typer

from morpheus_devstack.console import write_err, write_out
from morpheus_devstack.errors import StackError

_ROUTER = re.compile(r"([A-Za-z0-9_-]{1,64})=(https?://\S+)")


def make(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="where they are kept; made if it is not there")],
    router: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=URL",
            help="a proxy-router; name them all. The password of its user admin is DIR/routers/NAME, made if there is none",
        ),
    ] = None,
    mongo_host: Annotated[str, typer.Option(metavar="HOST:PORT,…", help="members of the database")] = "mongodb:27017",
    replica_set: Annotated[str, typer.Option(help="name of its replica set")] = "rs0",
    mongo_option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="of its connection string, for example tls=true")
    ] = None,
    valkey: Annotated[str, typer.Option(metavar="HOST:PORT", help="store of the gateways' limits")] = "valkey:6379",
    owner: Annotated[
        int | None, typer.Option(metavar="UID", help="who may read the files; the services' images run as 10001")
    ] = None,
    mongo_owner: Annotated[
        int | None, typer.Option(metavar="UID", help="who may read those of mongod; the official image runs as 999")
    ] = None,
    grafana_owner: Annotated[
        int | None, typer.Option(metavar="UID", help="who may read that of Grafana; the official image runs as 472")
    ] = None,
) -> None:
    """Make every secret that a deployment needs, a folder for each part of it. Nothing that is there is overwritten.

    Files bear names of settings: mount the folder of a service, and name it with SECRETS_DIR. What follows from secrets
    (rights on the bus, lists of routers and users) is written anew each time: repeat it after a new version, with the same
    options. To change a NATS_SEED, a MONGO_URL, the password of Valkey or of a router, take its file away and repeat it.

    DIR is all that protects the deployment: keep it where nobody else reads, and a copy elsewhere.
    """
    from morpheus_devstack.deployment_secrets import Deployment, Owners, SecretFolder, make_secrets

    deployment = Deployment(
        mongo_hosts=mongo_host,
        replica_set=replica_set,
        mongo_options=dict(_pair(option) for option in mongo_option or ()),
        valkey=valkey,
        routers=_routers(router or ()),
    )
    kept = SecretFolder(folder.expanduser(), Owners(owner, mongo_owner, grafana_owner))
    make_secrets(kept, deployment)
    for name in kept.made:
        write_out(f"{name}\n")
    write_err(f"{len(kept.made)} secrets made in {folder}; what was there is as it was.\n")


def _pair(option: str) -> tuple[str, str]:
    name, separator, value = option.partition("=")
    if not (name and separator):
        raise StackError("--mongo-option is written NAME=VALUE.")
    return name, value


def _routers(options: list[str] | tuple[()]) -> dict[str, str]:
    routers: dict[str, str] = {}
    for option in options:
        found = _ROUTER.fullmatch(option)
        if found is None:
            raise StackError("--router is written NAME=URL: letters, digits, - and _, then http:// or https://.")
        name, url = found.groups()
        if name in routers:
            raise StackError(f"two routers are called {name}; a name stands for one wallet.")
        routers[name] = url
    return routers
