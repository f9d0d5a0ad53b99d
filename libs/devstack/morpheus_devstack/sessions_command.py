"""`morpheus sessions`: what operators see of sessions and stakes, and the few things they do about them.

All of it is asked over the bus: no credentials of a database or a router are needed.
"""

import asyncio
from collections.abc import Iterable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from morpheus_devstack.console import Progress, write_out
from morpheus_devstack.errors import StackError
from morpheus_devstack.operator_console import AsJson, Data, ask, write_json, write_table

if TYPE_CHECKING:
    from morpheus_common.bus.rpc import RpcClient
    from morpheus_common.contracts.automation import DecisionRow
    from morpheus_common.contracts.operator import OnChain, OperatedSession, OperatedWallet, PassMade, Planned

    from morpheus_devstack.audit import Audit

T = TypeVar("T")

DIFFERENT = 3
"""Exit code of an audit that found a difference. 1: it could not be made; 2: the command was not understood."""
PASS_SECONDS = 60.0
WEI = Decimal(10**18)

app = typer.Typer(help="What is at stake, and what is done about it.", no_args_is_help=True, rich_markup_mode=None)

Router = Annotated[str | None, typer.Option("--router", metavar="NAME", help="of this router only")]


@app.command("list")
def list_sessions(
    data: Data = None,
    state: Annotated[
        list[str] | None, typer.Option(help="of this state only, or `all`; repeatable. Default: all with stake in them")
    ] = None,
    router: Router = None,
    as_json: AsJson = False,
) -> None:
    """Show the sessions that are recorded: state, slot, stake, router, wallet, age, time left, key and model."""
    rows, now = ask(data, lambda rpc: _records(rpc, state or [], router))
    if as_json:
        write_json(
            {**row.model_dump(mode="json"), "mor": mor(row.stake), "reserved_mor": mor(row.reserved)} for row in rows
        )
        return
    columns = "STATE", "SLOT", "MOR", "WEI", "ROUTER", "WALLET", "AGE", "LEFT", "KEY", "MODEL", "SESSION"
    write_table(columns, [_session_cells(row, now) for row in rows])
    reserved = sum(row.reserved or 0 for row in rows)
    told = f" ({mor(reserved)} of it for opens under way)" if reserved else ""
    write_out(f"{_count(len(rows), 'session')}, {mor(sum(row.stake or 0 for row in rows) + reserved)} MOR{told}.\n")


@app.command()
def routers(data: Data = None, as_json: AsJson = False) -> None:
    """Show the proxy-routers: state, wallet, chain, height and free MOR, as one session worker sees them."""
    found = ask(data, _wallets)
    if as_json:
        write_json({**item.model_dump(mode="json"), "mor": mor(item.balance)} for item in found)
        return
    cells = [
        [
            item.router,
            item.state if item.problem is None or item.state != "ok" else item.problem,
            *("" if told is None else str(told) for told in (item.wallet, item.chain, item.height)),
            mor(item.balance),
        ]
        for item in found
    ]
    write_table(("ROUTER", "STATE", "WALLET", "CHAIN", "HEIGHT", "MOR"), cells)


@app.command()
def reconcile(
    data: Data = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be done and why; change nothing")] = False,
    router: Router = None,
    as_json: AsJson = False,
) -> None:
    """Hold records and chain side by side now: every wallet's loop makes a complete pass."""
    if dry_run:
        planned = ask(data, lambda rpc: _plans(rpc, router))
        if as_json:
            write_json(item.model_dump(mode="json") for item in planned)
            return
        columns = "ACT", "WHY", "MOR", "SESSION", "KEY", "OPERATION"
        found = [item for item in planned if not item.under_way]
        going_on = [item for item in planned if item.under_way]
        write_table(columns, [_planned_cells(item) for item in found])
        write_out(f"{_count(len(found), 'thing')} to do.\n" if found else "Nothing to do.\n")
        if going_on:
            write_out("\n")
            write_table(columns, [_planned_cells(item) for item in going_on])
            write_out(f"{_count(len(going_on), 'operation')} under way.\n")
        return
    made = ask(data, lambda rpc: _passes(rpc, router))
    for name, item in made.items():
        if as_json:
            write_json([{"router": name, "made": item.made, "done": item.done, "under_way": item.under_way}])
        elif item.made:
            told = ", ".join(f"{act} {count}" for act, count in sorted(item.done.items())) or "nothing to do"
            more = f"; {_count(item.under_way, 'operation')} under way" if item.under_way else ""
            write_out(f"{name}: pass made: {told}{more}\n")
    late = [name for name, item in made.items() if not item.made]
    if late:
        raise StackError(f"No pass within {PASS_SECONDS:.0f} s: {', '.join(late)}. Does a session worker reach it?")


@app.command()
def audit(
    data: Data = None,
    as_json: AsJson = False,
    apart: Annotated[
        float | None, typer.Option(min=0, help="seconds between the two readings; default: two passes of the loop")
    ] = None,
    allow_foreign: Annotated[
        bool, typer.Option("--allow-foreign", help="others may use the wallets too: their sessions are no difference")
    ] = False,
) -> None:
    """Hold our records beside the chain's, of every wallet. Exit code 0: no difference; 3: there are some.

    A difference counts if two readings, some blocks apart, both show it. Nothing is changed.
    """
    from morpheus_devstack.audit import Kind
    from morpheus_devstack.audit import audit as make_audit

    with Progress() as progress:
        made = ask(data, lambda rpc: make_audit(rpc, progress.waiting_for, apart=apart))
    foreign = [item for item in made.differences if item.kind is Kind.FOREIGN]
    counted = [item for item in made.differences if not (allow_foreign and item.kind is Kind.FOREIGN)]
    if as_json:
        write_json(_audit_lines(made, len(counted)))
    else:
        if made.differences:
            columns = "WHAT", "SESSION", "MOR", "ROUTER", "KEY", "WHY"
            cells = [
                [item.kind.value, item.what, mor(item.stake), item.router or "", item.key_id or "", item.why]
                for item in made.differences
            ]
            write_table(columns, cells)
        told = "no difference" if not counted else _count(len(counted), "difference")
        if foreign and allow_foreign:
            told += f" ({_count(len(foreign), 'foreign session')}, not ours)"
        if made.in_flight:
            told += f"; {made.in_flight} in flight, seen by the first reading only"
        write_out(f"{_count(made.sessions, 'session')}, {mor(made.stake)} MOR at stake: {told}.\n")
    if counted:
        raise typer.Exit(DIFFERENT)


@app.command()
def adopt(
    session_id: Annotated[str, typer.Argument(metavar="SESSION", help="a lost session's id on chain")],
    key: Annotated[str, typer.Option("--key", metavar="KEY_ID", help="id of the API key that is to have it")],
    data: Data = None,
    user: Annotated[
        str | None, typer.Option("--user", metavar="USER_ID", help="the key's user, where no record says it")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a record for a lost session: on a wallet of ours, with our tag, and no record. A foreign one is never touched."""
    from morpheus_common.contracts.operator import ADOPT_LOST, LOOK_AT, AdoptLost, LookAt

    question = _checked(LookAt, session_id=session_id)
    seen = ask(data, lambda rpc: rpc.call(LOOK_AT, question))
    if not seen.ours:
        raise StackError(f"{session_id} does not carry our tag: a foreign session is never touched.")
    if not yes:
        typer.confirm(f"{_describe(seen)}\nRecord it for the key {key}?", abort=True, err=True)
    command = _checked(AdoptLost, session_id=session_id, key_id=key, user_id=user)
    row = ask(data, lambda rpc: rpc.call(ADOPT_LOST, command))
    if as_json:
        write_json([{**row.model_dump(mode="json"), "mor": mor(row.stake)}])
    else:
        write_out(f"Recorded as {row.id}, {row.state}, with {mor(row.stake)} MOR, for the key {row.key_id}.\n")


@app.command()
def close(
    session_id: Annotated[str, typer.Argument(metavar="SESSION", help="id on chain, or of our record")],
    data: Data = None,
    as_json: AsJson = False,
    unrecorded: Annotated[
        bool, typer.Option("--unrecorded", help="close it although auth is away and cannot enter it into the audit log")
    ] = False,
) -> None:
    """Queue the close of a session of ours. The wallet's loop closes it as soon as no prompt runs in it."""
    from morpheus_common.contracts.operator import CLOSE_OURS, CloseOurs

    command = _checked(CloseOurs, session_id=session_id, unrecorded=unrecorded)
    queued = ask(data, lambda rpc: rpc.call(CLOSE_OURS, command))
    if as_json:
        write_json([queued.model_dump(mode="json")])
    elif queued.operation_id is None:
        write_out("It is still opening: it will be closed as soon as it is on chain.\n")
    else:
        write_out(f"Its close is queued as {queued.operation_id}, and repeated until the chain confirms it.\n")


@app.command()
def decisions(
    user: Annotated[str, typer.Argument(metavar="USER_ID", help="id of the user; `list --json` shows it")],
    data: Data = None,
    key: Annotated[str | None, typer.Option(metavar="KEY_ID", help="about this API key only")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 50,
    as_json: AsJson = False,
) -> None:
    """Show what automation decided about a user's sessions in the last 90 days, newest first, and why."""
    rows = ask(data, lambda rpc: _decisions(rpc, user, key, limit), worker="automation")
    if as_json:
        write_json(row.model_dump(mode="json") for row in rows)
        return
    columns = "TIME (UTC)", "DECISION", "REASON", "TIMES", "SECONDS", "ERROR", "KEY", "MODEL", "SESSION", "OPERATION"
    write_table(columns, [_decision_cells(row) for row in rows])
    write_out(f"{_count(len(rows), 'decision')}.\n")


# asking


async def _decisions(rpc: "RpcClient", user: str, key: str | None, limit: int) -> "list[DecisionRow]":
    from morpheus_common.contracts.automation import LIST_DECISIONS, ListDecisions

    question = ListDecisions(user_id=user, key_id=key, limit=limit)
    return (await rpc.call(LIST_DECISIONS, question)).decisions


def _checked(model: type[T], **fields: Any) -> T:
    """Make a question of what was typed."""
    from pydantic import ValidationError

    try:
        return model(**fields)
    except ValidationError as error:
        names = ", ".join(str(problem["loc"][0]) for problem in error.errors(include_input=False))
        raise StackError(f"Not of the right form: {names}. An id on chain is 0x and 64 small hex digits.") from None


async def _records(rpc: "RpcClient", states: list[str], router: str | None) -> "tuple[list[OperatedSession], datetime]":
    from morpheus_common.contracts.operator import LIST_SESSIONS, ListSessions
    from morpheus_common.contracts.sessions import SessionState

    from morpheus_devstack.audit import LIVE

    unknown = set(states) - {*SessionState, "all"}
    if unknown:
        raise StackError(f"No such state: {', '.join(unknown)}. There are: all, {', '.join(SessionState)}.")
    wanted = list(SessionState) if "all" in states else [SessionState(name) for name in states] or list(LIVE)
    rows: list[OperatedSession] = []
    after = None
    while True:
        page = await rpc.call(LIST_SESSIONS, ListSessions(states=wanted, router=router, after=after))
        rows += page.sessions
        if not page.more:
            break
        after = rows[-1].id
    if router is not None and not rows and not await _has_records(rpc, router):
        await _routers(rpc, router)
    return rows, page.now


async def _has_records(rpc: "RpcClient", router: str) -> bool:
    """Tell whether a router of this name was ever used; it may have been taken out of the configuration since."""
    from morpheus_common.contracts.operator import LIST_SESSIONS, ListSessions
    from morpheus_common.contracts.sessions import SessionState

    found = await rpc.call(LIST_SESSIONS, ListSessions(states=list(SessionState), router=router, limit=1))
    return bool(found.sessions)


async def _routers(rpc: "RpcClient", router: str | None) -> list[str]:
    from morpheus_common.contracts.base import Empty
    from morpheus_common.contracts.operator import WALLETS

    names = [item.router for item in (await rpc.call(WALLETS, Empty())).wallets]
    if router is not None and router not in names:
        raise StackError(f"No router is called {router}; there are: {', '.join(names)}.")
    return names if router is None else [router]


async def _wallets(rpc: "RpcClient") -> "list[OperatedWallet]":
    from morpheus_common.contracts.base import Empty
    from morpheus_common.contracts.operator import WALLETS

    return (await rpc.call(WALLETS, Empty())).wallets


async def _plans(rpc: "RpcClient", router: str | None) -> "list[Planned]":
    from morpheus_common.contracts.operator import PLAN_PASS, PlanPass

    planned: list[Planned] = []
    for name in await _routers(rpc, router):
        more, offset = True, 0
        while more:
            page = await rpc.call(PLAN_PASS, PlanPass(router=name, offset=offset))
            planned += page.planned
            more, offset = page.more, offset + len(page.planned)
    # an open that no wallet has taken yet is in the plan of each
    return list({item.model_dump_json(): item for item in planned}.values())


async def _passes(rpc: "RpcClient", router: str | None) -> "dict[str, PassMade]":
    from morpheus_common.contracts.operator import MAKE_PASS, MakePass

    names = await _routers(rpc, router)
    made = await asyncio.gather(*(rpc.call(MAKE_PASS, MakePass(router=name, wait=PASS_SECONDS)) for name in names))
    return dict(zip(names, made, strict=True))


# showing


def mor(stake: int | None) -> str:
    """Return an amount of wei in MOR, exactly, in plain digits; nothing for None."""
    if stake is None:
        return ""
    text = f"{Decimal(stake) / WEI:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def duration(time: timedelta) -> str:
    """Return a length of time in its two largest units; `over` where it is not positive."""
    seconds = int(time.total_seconds())
    if seconds <= 0:
        return "over"
    for size, name, part, smaller in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= size:
            return f"{seconds // size} {name} {seconds % size // part} {smaller}"
    return f"{seconds} s"


def age(time: timedelta) -> str:
    """Return how long ago something was. The chain's clock may be ahead of ours: what is to come has just been."""
    return duration(time) if time >= timedelta(seconds=1) else "0 s"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _session_cells(row: "OperatedSession", now: "datetime") -> list[str]:
    left = "" if row.ends_at is None else duration(row.ends_at - now)
    stake, mark = (row.stake, "") if row.reserved is None else (row.reserved, " (reserved)")
    return [
        row.state.value + (" (stuck)" if row.stuck else ""),
        "" if row.slot is None else row.slot.value,
        mor(stake) + mark,
        "" if stake is None else str(stake),
        row.router or "",
        row.wallet or "",
        age(now - (row.opened_at or row.created_at)),
        left,
        row.key_id,
        row.model,
        row.session_id or row.id,
    ]


def _decision_cells(row: "DecisionRow") -> list[str]:
    shortened = "" if row.shortened_by is None else f" ({row.shortened_by})"
    return [
        f"{row.last_at:%Y-%m-%d %H:%M:%S}",
        row.decision.value,
        row.reason,
        str(row.times),
        "" if row.duration is None else f"{row.duration}{shortened}",
        row.error or "",
        row.key_id,
        row.model_id,
        row.session_id or "",
        row.operation_id or "",
    ]


def _planned_cells(item: "Planned") -> list[str]:
    where = item.session_id or item.id or ""
    return [item.act.value, item.reason, mor(item.stake), where, item.key_id or "", item.operation_id or ""]


def _describe(seen: "OnChain") -> str:
    times = f"open {seen.opened_at:%Y-%m-%d %H:%M} to {seen.ends_at:%Y-%m-%d %H:%M} UTC"
    return f"{seen.session_id}\n{mor(seen.stake)} MOR, {times}, model {seen.model_id}, on {seen.router} ({seen.wallet})"


def _audit_lines(made: "Audit", counted: int) -> Iterable[dict[str, Any]]:
    for item in made.differences:
        yield {
            "kind": item.kind.value,
            "session": item.what,
            "stake": None if item.stake is None else str(item.stake),
            "mor": mor(item.stake),
            "router": item.router,
            "key_id": item.key_id,
            "why": item.why,
        }
    yield {
        "sessions": made.sessions,
        "stake": str(made.stake),
        "mor": mor(made.stake),
        "differences": counted,
        "in_flight": made.in_flight,
    }
