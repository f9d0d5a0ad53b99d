"""`morpheus nats-config`: the configuration of nats-server, with the rights of every user."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from morpheus_devstack.console import write_out
from morpheus_devstack.errors import StackError

if TYPE_CHECKING:
    from morpheus_common.bus.names import User

NKEY_LENGTH = 56
"""Characters of a public NKey: 35 bytes in base 32."""


def nats_config(
    keys: Annotated[
        Path, typer.Option(metavar="FILE", help='public NKeys of the users, JSON: {"gateway": "U…", "auth": "U…", …}')
    ],
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="where clients connect")] = "0.0.0.0:4222",
    store_dir: Annotated[str, typer.Option(help="where streams are kept")] = "/data",
    server_name: Annotated[
        str | None, typer.Option(help="name of this server; $NAME takes it from the server's environment")
    ] = None,
    monitor: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="its HTTP port with /healthz")] = None,
    tls_cert: Annotated[str | None, typer.Option(metavar="FILE", help="certificate of the server")] = None,
    tls_key: Annotated[str | None, typer.Option(metavar="FILE", help="key of the certificate")] = None,
    tls_ca: Annotated[str | None, typer.Option(metavar="FILE", help="authority that signed it")] = None,
    cluster: Annotated[
        str | None, typer.Option(metavar="NAME", help="name of the cluster; default: one server")
    ] = None,
    cluster_listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="where other servers connect")] = (
        "0.0.0.0:6222"
    ),
    route: Annotated[
        list[str] | None, typer.Option(metavar="HOST:PORT", help="a server of the cluster; name them all")
    ] = None,
    cluster_password_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="what the servers know each other by; URL-safe")
    ] = None,
) -> None:
    """Print a configuration of nats-server: one account, each user with the rights that it needs and no others."""
    from morpheus_common.bus.names import ACCOUNT
    from morpheus_common.bus.permissions import Cluster, Tls, render_server_config

    tls = None
    if tls_cert or tls_key or tls_ca:
        if not (tls_cert and tls_key and tls_ca):
            raise StackError("--tls-cert, --tls-key and --tls-ca belong together: name all three.")
        tls = Tls(cert=tls_cert, key=tls_key, ca=tls_ca)
    joined = None
    if cluster is not None:
        if server_name is None or not route or cluster_password_file is None:
            raise StackError("--cluster needs --server-name, --cluster-password-file, and a --route for each server.")
        routes = tuple(f"nats-route://{address}" for address in route)
        joined = Cluster(cluster, cluster_listen, routes, "route", _read(cluster_password_file).strip())
    write_out(
        render_server_config(
            listen=listen,
            store_dir=store_dir,
            accounts={ACCOUNT: _public_keys(keys)},
            server_name=server_name,
            monitor=monitor,
            tls=tls,
            cluster=joined,
        )
    )


def _public_keys(path: Path) -> "dict[User, str]":
    from morpheus_common.bus.names import User

    try:
        known = json.loads(_read(path))
        return {user: _public(known[user]) for user in User}
    except (ValueError, KeyError, TypeError) as error:
        names = ", ".join(User)
        raise StackError(
            f"{path} is not what it should be: a JSON object with a public NKey (U…) for each of {names}."
        ) from error


def _public(key: str) -> str:
    # a seed in a server's configuration would be one copy too many
    if len(key) != NKEY_LENGTH or not key.startswith("U"):
        raise ValueError
    return key


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise StackError(f"{path} cannot be read: {error.strerror}.") from error
