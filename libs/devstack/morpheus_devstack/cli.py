"""The `morpheus` command. What takes long to import is imported by the command that needs it."""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from morpheus_devstack.admin_command import app as admin_app
from morpheus_devstack.audit_command import app as audit_app
from morpheus_devstack.certificates_command import certificates
from morpheus_devstack.console import Progress, write_err, write_out
from morpheus_devstack.errors import StackError
from morpheus_devstack.events_command import dead_letters_app, events_app
from morpheus_devstack.folder import StackFolder
from morpheus_devstack.kek_command import rotate_kek
from morpheus_devstack.keys_command import app as keys_app
from morpheus_devstack.nats_config_command import nats_config
from morpheus_devstack.operator_console import Data as OperatorsData
from morpheus_devstack.prepare_mongo_command import prepare_mongo
from morpheus_devstack.secrets_command import make as make_secrets
from morpheus_devstack.sessions_command import app as sessions_app
from morpheus_devstack.waiting import poll

if TYPE_CHECKING:
    from morpheus_devstack.stack import Stack

DOWN_SECONDS = 60.0
"""Longer than any process's grace."""
RESTART_SECONDS = 30.0

app = typer.Typer(
    name="morpheus",
    help="The Morpheus API Gateway on this machine: real servers, no containers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.add_typer(audit_app, name="audit")
app.add_typer(sessions_app, name="sessions")
app.add_typer(keys_app, name="keys")
app.add_typer(admin_app, name="admin")
app.add_typer(events_app, name="events")
app.add_typer(dead_letters_app, name="dlq")
app.command("rotate-kek")(rotate_kek)
app.command("nats-config")(nats_config)
app.command("secrets")(make_secrets)
app.command("prepare-mongo")(prepare_mongo)
app.command("certificates")(certificates)

Data = Annotated[Path, typer.Option("--data", help="folder of the stack's data, secrets and logs")]
DATA = Path(".data")


def _folder(data: Path) -> StackFolder:
    return StackFolder(data.expanduser().resolve())


@app.command()
def up(
    data: Data = DATA,
    port: Annotated[int, typer.Option(help="the gateway's port; 0 takes free ports for everything")] = 8000,
    simulator_port: Annotated[int, typer.Option(help="the simulated router's port")] = 8082,
    routers: Annotated[
        int,
        typer.Option(min=1, max=16, help="simulated routers, with a wallet each, on ports from --simulator-port on"),
    ] = 1,
    fresh: Annotated[bool, typer.Option("--fresh", help="delete the data of the last run first")] = False,
    router: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="use this proxy-router instead of the simulated one (credentials: PROXY_ROUTER_USER, PROXY_ROUTER_PASSWORD)",
        ),
    ] = None,
    llm: Annotated[
        str | None,
        typer.Option(metavar="URL", help="OpenAI-compatible server that answers for the simulated providers"),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="one JSON line on stdout when ready, all else on stderr")
    ] = False,
    supervise: Annotated[bool, typer.Option(help="start a process again when it dies")] = True,
) -> None:
    """Start the whole system, show one streamed answer, and run until Ctrl-C or SIGTERM."""
    from morpheus_devstack.stack import Options, run

    if router is not None and routers != 1:
        raise StackError("--routers simulates some, --router uses one that is there: choose one of the two.")
    options = Options(_folder(data), port, simulator_port, fresh, router, llm, supervise, routers)
    with Progress() as progress:

        async def when_ready(stack: "Stack") -> None:
            await _introduce(stack, progress, as_json=as_json)

        progress.waiting_for(f"Starting the stack in {options.folder.path} …")
        if not progress.is_live:
            progress.say(f"Starting the stack in {options.folder.path}.")
        asyncio.run(run(options, progress.say, when_ready))
    progress.say("Everything has ended.")


async def _introduce(stack: "Stack", progress: Progress, *, as_json: bool) -> None:
    """Make the demo account, show a chat, and say how to go on."""
    import json

    from morpheus_devstack.demo import Demo, curl_line, sdk_snippet, show_chat

    places = stack.places
    write = write_err if as_json else write_out
    demo = Demo(places.base_url, stack.options.folder.demo_file)
    progress.waiting_for("Preparing the demo user …")
    account = await demo.prepare()
    progress.waiting_done()
    model = None
    try:
        model = await demo.model()
        await show_chat(demo, account, model, write)
    except StackError as error:  # the stack runs; what is behind the router may not
        progress.say(f"The demo chat failed: {error}")
    if as_json:
        known = {"base_url": places.base_url, "api_key": account.api_key}
        known |= {"email": account.email, "password": account.password}
        known |= {"router_url": places.router.url, "nats_url": places.observer_url}
        write_out(json.dumps({**known, "mongo_url": places.mongo_url("ops")}) + "\n")
        return
    write(f"\nURL  {places.base_url}\nKey  {account.api_key}\n")
    if model is not None:
        write(f"\n{curl_line(places.base_url, account.api_key, model)}\n")
        write(f"\n{sdk_snippet(places.base_url, account.api_key, model, sys.executable)}\n")
    write("\nCtrl-C ends everything.\n")


@app.command()
def apply(data: OperatorsData = None) -> None:
    """Make streams, durable consumers and indexes, and carry out migrations: where NATS_URL, NATS_SEED (of the user ops) and
    MONGO_URL say, or of the development stack in --data. Repeatable.
    """
    from morpheus_devstack.apply import ApplySettings
    from morpheus_devstack.apply import apply as apply_now

    changes = asyncio.run(apply_now(ApplySettings.read(None if data is None else _folder(data))))
    for change in changes:
        write_out(f"{change}\n")
    write_out("Streams, durable consumers, indexes and documents are as they should be.\n")


@app.command()
def down(data: Data = DATA) -> None:
    """End the stack that runs in --data, and wait until it is gone."""
    folder = _folder(data)
    owner = folder.owner()
    if owner is None:
        write_err(f"No stack runs in {folder.path}.\n")
        return
    os.kill(owner, signal.SIGTERM)

    async def is_gone() -> bool:
        return folder.owner() is None

    if not asyncio.run(poll(is_gone, seconds=DOWN_SECONDS, every=0.1)):
        raise StackError(f"The stack in {folder.path} (process {owner}) did not end within {DOWN_SECONDS:.0f} s.")


@app.command()
def restart(name: Annotated[str, typer.Argument(help="one of the names in pids.json")], data: Data = DATA) -> None:
    """End a process of the stack in --data, if it runs, and start it again."""
    folder = _folder(data)
    owner = folder.owner()
    if owner is None:
        raise StackError(f"No stack runs in {folder.path}.")
    before = folder.pids().get(name)
    if before is not None:
        os.kill(before, signal.SIGTERM)

    async def is_down() -> bool:
        return folder.pids().get(name) != before

    async def is_up() -> bool:
        return folder.pids().get(name) not in {None, before}

    async def restarted() -> bool:
        ended = before is None or await poll(is_down, seconds=RESTART_SECONDS)
        os.kill(owner, signal.SIGUSR1)
        return ended and await poll(is_up, seconds=RESTART_SECONDS)

    if not asyncio.run(restarted()):
        raise StackError(f"{name} did not start again within {RESTART_SECONDS:.0f} s.")


def main() -> None:
    """Entry of the command: what goes wrong is one sentence on stderr and exit code 1."""
    try:
        app()
    except StackError as error:
        write_err(f"morpheus: {error}\n")
        sys.exit(1)
