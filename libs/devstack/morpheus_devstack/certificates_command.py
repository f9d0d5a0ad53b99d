"""`morpheus certificates`: what the servers of a deployment are recognised by."""

from pathlib import Path
from typing import Annotated

import typer

from morpheus_devstack.console import write_out
from morpheus_devstack.errors import StackError


def certificates(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="where they are kept; made if it is not there")],
    server: Annotated[
        list[str],
        typer.Option(metavar="NAME=HOST,…", help="a server, and by which hosts it is reached; may be repeated"),
    ],
) -> None:
    """Make certificates for servers that only a deployment's own parts speak to: DIR/NAME/server.crt, .key and .pem, signed by
    DIR/ca.crt. Repeatable: what is good for 60 days more stays. They are good for a year.
    """
    from morpheus_devstack.certificates import make_certificates

    made = make_certificates(folder.expanduser(), dict(_server(text) for text in server))
    write_out("".join(f"{name}\n" for name in made) or "All certificates are good for 60 days more.\n")


def _server(text: str) -> tuple[str, list[str]]:
    name, _, hosts = text.partition("=")
    if not name.replace("-", "").isalnum() or not all(hosts.split(",")):
        raise StackError("--server is written NAME=HOST,HOST: letters, digits and -, then host names or addresses.")
    return name, hosts.split(",")
