"""`morpheus audit`: what was done to accounts and credentials, and whether the record of it is whole.

Auth is asked over the bus: it alone has the key that the log is sealed with.
"""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from morpheus_devstack.console import write_out
from morpheus_devstack.errors import StackError
from morpheus_devstack.operator_console import AsJson, Data, ask, write_json, write_table

if TYPE_CHECKING:
    from morpheus_common.bus.rpc import RpcClient
    from morpheus_common.contracts.audit import AuditEntry, AuditMark, AuditProblem, AuditVerdict, ListAudit

WORKER = "auth"

app = typer.Typer(
    help="The record of every privileged act on accounts and credentials.", no_args_is_help=True, rich_markup_mode=None
)


@app.command()
def verify(
    data: Data = None,
    expect: Annotated[
        str | None,
        typer.Option(
            metavar="SEQ:HASH", help="a head that was noted elsewhere before: it has to be in the log unchanged"
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Look at every entry of the log. Exit code 0: it is whole; 1: something is wrong, and what is told.

    Note the head that is printed at a place that nobody reaches who can write the database, and give it next time as
    --expect: only that shows a database which was put back to an older state.
    """
    noted = None if expect is None else _mark(expect)
    verdict = ask(data, lambda rpc: _verdict(rpc, noted), worker=WORKER)
    head = f"{verdict.last.sequence}:{verdict.last.hash}"
    if as_json:
        write_json(item.model_dump(mode="json") for item in verdict.problems)
        write_json([{"entries": verdict.entries, "head": head, "problems": len(verdict.problems)}])
    else:
        write_table(("WHAT", "ENTRY", "WHY"), [_problem_cells(item) for item in verdict.problems])
        told = "whole" if not verdict.problems else f"NOT whole, {len(verdict.problems)} problems"
        write_out(f"{verdict.entries} entries: {told}.\nHead  {head}\n")
    if verdict.problems:
        raise typer.Exit(1)


@app.command("list")
def list_entries(
    data: Data = None,
    since: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"], help="not before this day or time, in UTC"),
    ] = None,
    action: Annotated[str | None, typer.Option(help="of this kind only, for example key.created")] = None,
    user: Annotated[str | None, typer.Option(metavar="USER_ID", help="about this user only")] = None,
    as_json: AsJson = False,
) -> None:
    """Show entries, oldest first. A user is shown by the random id that the log has for him."""
    question = _question(since, action, user)
    entries = ask(data, lambda rpc: _entries(rpc, question), worker=WORKER)
    if as_json:
        write_json(entry.model_dump(mode="json") for entry in entries)
        return
    write_table(("ENTRY", "TIME (UTC)", "ACTION", "BY", "ABOUT", "FACTS"), [_entry_cells(entry) for entry in entries])
    write_out(f"{len(entries)} entries.\n")


def _mark(text: str) -> "AuditMark":
    from morpheus_common.contracts.audit import AuditMark
    from pydantic import ValidationError

    sequence, _, noted = text.partition(":")
    try:
        return AuditMark.model_validate({"sequence": sequence, "hash": noted.strip().lower()})
    except ValidationError:
        raise StackError("--expect wants a head as `morpheus audit verify` printed it: number:64 hex digits.") from None


def _question(since: datetime | None, action: str | None, user: str | None) -> "ListAudit":
    from morpheus_common.contracts.audit import AuditAction, ListAudit

    if action is not None and action not in list(AuditAction):
        raise StackError(f"No such action: {action}. There are: {', '.join(AuditAction)}.")
    return ListAudit(
        since=None if since is None else since.replace(tzinfo=UTC),
        action=None if action is None else AuditAction(action),
        user_id=user,
    )


async def _verdict(rpc: "RpcClient", noted: "AuditMark | None") -> "AuditVerdict":
    """Ask page after page, and return the verdict on all of them."""
    from morpheus_common.contracts.audit import START, VERIFY_AUDIT, AuditVerdict, VerifyAudit

    problems: list[AuditProblem] = []
    last, entries, more = START, 0, True
    while more:
        page = await rpc.call(VERIFY_AUDIT, VerifyAudit(after=last, expect=noted))
        problems += page.problems
        last, entries, more = page.last, entries + page.entries, page.more
    return AuditVerdict(last=last, entries=entries, problems=problems, more=False)


async def _entries(rpc: "RpcClient", question: "ListAudit") -> "list[AuditEntry]":
    from morpheus_common.contracts.audit import LIST_AUDIT

    found: list[AuditEntry] = []
    more = True
    while more:
        after = found[-1].sequence if found else 0
        page = await rpc.call(LIST_AUDIT, question.model_copy(update={"after": after}))
        found += page.entries
        more = page.more
    return found


def _problem_cells(item: "AuditProblem") -> list[str]:
    return [item.kind.value, "" if item.sequence is None else str(item.sequence), item.message]


def _entry_cells(entry: "AuditEntry") -> list[str]:
    facts = ", ".join(f"{name}={_shown(value)}" for name, value in entry.facts.items())
    return [str(entry.sequence), f"{entry.at:%Y-%m-%d %H:%M:%S}", entry.action, entry.actor, entry.subject or "", facts]


def _shown(value: str | int | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
