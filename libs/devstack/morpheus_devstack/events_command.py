"""`morpheus events` and `morpheus dlq`: what the streams keep, and how what was lost or set aside is had again."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from morpheus_devstack.console import write_out
from morpheus_devstack.folder import StackFolder
from morpheus_devstack.operator_console import AsJson, Data, ask, write_json, write_table

if TYPE_CHECKING:
    from morpheus_common.bus.rpc import RpcClient

    from morpheus_devstack.operator_bus import OpsSettings

KEPT_DAYS = 7
LISTED = 1_000
DAY_OR_TIME = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]

events_app = typer.Typer(help="What has happened, as it was told.", no_args_is_help=True, rich_markup_mode=None)
dead_letters_app = typer.Typer(
    help="Events that a service could not digest (the stream DLQ).", no_args_is_help=True, rich_markup_mode=None
)

Limit = Annotated[int, typer.Option(min=1, help="so many at most")]


@events_app.command("list")
def list_events(
    data: Data = None,
    since: Annotated[
        datetime | None, typer.Option(formats=DAY_OR_TIME, help="not before this day or time, in UTC")
    ] = None,
    subject: Annotated[str, typer.Option(help="under this subject only; * and > stand for any")] = "evt.>",
    limit: Limit = LISTED,
    as_json: AsJson = False,
) -> None:
    """Show the events that the stream keeps, oldest first: when, what, which entity, and its version then."""
    from morpheus_devstack.stored_events import list_events as read

    found = asyncio.run(read(_settings(data), subject, _utc(since), limit))
    if as_json:
        write_json(event.row() for event in found)
        return
    rows = [
        [str(item.sequence), f"{item.time:%Y-%m-%d %H:%M:%S}", item.subject, item.entity, item.version]
        for item in found
    ]
    write_table(("SEQ", "TIME (UTC)", "SUBJECT", "ENTITY", "VERSION"), rows)
    write_out(f"{len(found)} events.\n")


@events_app.command()
def republish(
    data: Data = None,
    since: Annotated[
        datetime | None,
        typer.Option(
            formats=DAY_OR_TIME, help="from this day or time on, in UTC; default: all that are kept, seven days"
        ),
    ] = None,
) -> None:
    """Have auth, sessions and automation publish again what they have published since then.

    For a bus that has lost its data: subscribers get the events that they had not read. Ids and versions are those of the
    first time, so that whoever knows an event drops it. Repeatable.
    """
    from morpheus_common.contracts.events import REPUBLISH_EVENTS, RepublishEvents

    command = RepublishEvents(since=_utc(since) or datetime.now(UTC) - timedelta(days=KEPT_DAYS + 1))
    for service, contract in REPUBLISH_EVENTS.items():

        async def call(rpc: "RpcClient") -> int:
            return (await rpc.call(contract, command)).count  # noqa: B023 - it is called before the next round

        write_out(f"{service}: {ask(data, call, worker=service)} events are published again.\n")


@dead_letters_app.command("list")
def list_dead_letters(data: Data = None, limit: Limit = LISTED, as_json: AsJson = False) -> None:
    """Show the events that were set aside, oldest first, with the reader that failed, why, and how often."""
    from morpheus_devstack.stored_events import list_dead_letters as read

    found = asyncio.run(read(_settings(data), limit))
    if as_json:
        write_json(event.row() for event in found)
        return
    rows = [
        [
            str(item.sequence),
            f"{item.time:%Y-%m-%d %H:%M:%S}",
            item.subject,
            item.entity,
            item.consumer,
            item.reason,
            str(item.deliveries),
        ]
        for item in found
    ]
    write_table(("SEQ", "TIME (UTC)", "SUBJECT", "ENTITY", "CONSUMER", "REASON", "TRIES"), rows)
    write_out(f"{len(found)} events were set aside.\n")


@dead_letters_app.command()
def redrive(
    sequences: Annotated[
        list[int] | None, typer.Argument(metavar="[SEQ...]", help="their numbers in the list; none: all of them")
    ] = None,
    data: Data = None,
) -> None:
    """Have the service try events again that it could not digest. Those that it can leave the list.

    Exit code 1 if one still fails. Repeatable: what was done already is done once.
    """
    from morpheus_devstack.stored_events import redrive as tried_again

    wanted = sequences or []
    done = asyncio.run(tried_again(_settings(data), wanted))
    for item in done:
        write_out(f"{item.event.sequence} {item.event.subject} {item.event.entity}: {item.problem or 'done'}\n")
    gone = set(wanted) - {item.event.sequence for item in done}
    for sequence in sorted(gone):
        write_out(f"{sequence}: not in the list\n")
    failed = sum(bool(item.problem) for item in done)
    write_out(f"{len(done) - failed} done, {failed} still set aside.\n")
    if failed:
        raise typer.Exit(1)


def _settings(data: Path | None) -> "OpsSettings":
    from morpheus_devstack.operator_bus import OpsSettings

    return OpsSettings.read(None if data is None else StackFolder(data.expanduser().resolve()))


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(tzinfo=UTC)
