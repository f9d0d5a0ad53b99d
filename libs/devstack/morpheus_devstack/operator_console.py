"""What the commands for operators share: how a service is asked, and how rows are shown."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from morpheus_devstack.console import write_out
from morpheus_devstack.folder import StackFolder

if TYPE_CHECKING:
    from morpheus_common.bus.rpc import RpcClient

T = TypeVar("T")

Data = Annotated[
    Path | None,
    typer.Option(
        "--data", help="folder of a development stack; without it NATS_URL and NATS_SEED (of the user ops) are used"
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="one JSON object a line")]


def ask(data: Path | None, question: "Callable[[RpcClient], Awaitable[T]]", *, worker: str = "session") -> T:
    """Ask what `question` asks; `worker` is what a sentence calls whoever should have answered.

    Raises:
        StackError: it is not known where the bus is, or as `asking`.
    """
    from morpheus_devstack.operator_bus import OpsSettings, asking

    settings = OpsSettings.read(None if data is None else StackFolder(data.expanduser().resolve()))

    async def run() -> T:
        async with asking(settings, worker=worker) as rpc:
            return await question(rpc)

    return asyncio.run(run())


def _harmless(text: str) -> str:
    """Return a text without what a terminal obeys: anybody can name a model."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def write_json(lines: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line."""
    write_out("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def write_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a table as wide as the terminal; where there is none, as wide as it is."""
    if not rows:
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 10_000
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(_harmless(cell)) for cell in row))
    console.print(table)
