"""`morpheus prepare-mongo`: makes a MongoDB what the services expect."""

import asyncio
from typing import Annotated

import typer

from morpheus_devstack.console import write_out


def prepare_mongo(
    wait: Annotated[float, typer.Option(metavar="SECONDS", help="how long to wait for the servers")] = 120.0,
) -> None:
    """Make the servers that MONGO_URL names a replica set, if they are none, and make or renew its users. Repeatable.

    MONGO_URL is that of the user root, with replicaSet and all members; MONGO_USERS the other users' passwords, JSON by name.
    `morpheus secrets` writes both (DIR/prepare-mongo); SECRETS_DIR names their folder. Where a server was started without a
    first user, this makes it, but has to run on the machine of the first member, or be given MONGO_MEMBER_KEY, what is in
    the servers' key file.
    """
    from morpheus_devstack.prepare_mongo import PrepareSettings, prepare

    settings = PrepareSettings.read()
    key = settings.mongo_member_key
    member_key = None if key is None else key.get_secret_value()
    asyncio.run(prepare(settings.mongo_url.get_secret_value(), settings.users, seconds=wait, member_key=member_key))
    write_out("The replica set and its users are as they should be.\n")
