"""`morpheus rotate-kek`: brings every wrapped key of auth to the current version of the key-encryption key.

Auth does the work, a batch a question. Nothing is remembered here: after an interruption it is run again.
"""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from morpheus_devstack.console import Progress, write_out
from morpheus_devstack.operator_console import Data, ask

if TYPE_CHECKING:
    from morpheus_common.bus.rpc import RpcClient
    from morpheus_common.contracts.vault import KekUse

REMAINING = 3
"""Exit code when records remain on an older version. 1: it could not be done; 2: the command was not understood."""


def rotate_kek(
    data: Data = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what each version wraps; change nothing")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False,
) -> None:
    """Rewrap all keys at rest to the current key-encryption key, while everything runs. Repeatable.

    First give every auth process the new version, then run this, then remove the old version. Exit code 3: some remain.
    """
    with Progress() as progress:
        uses, rewrapped, failed = ask(data, lambda rpc: _run(rpc, progress, dry_run=dry_run), worker="auth")
    remaining = sum(use.records for use in uses if not use.current)
    if as_json:
        shown = [use.model_dump() for use in uses]
        write_out(
            json.dumps({"rewrapped": rewrapped, "remaining": remaining, "failed": failed, "versions": shown}) + "\n"
        )
    else:
        write_out("".join(f"{line}\n" for line in _report(uses, rewrapped, remaining, failed, dry_run=dry_run)))
    if remaining and not dry_run:
        raise typer.Exit(REMAINING)


async def _run(rpc: "RpcClient", progress: Progress, *, dry_run: bool) -> "tuple[list[KekUse], int, list[str]]":
    from morpheus_common.contracts.base import Empty
    from morpheus_common.contracts.vault import KEK_USES

    rewrapped, failed = (0, list[str]()) if dry_run else await _rewrap_all(rpc, progress)
    uses = (await rpc.call(KEK_USES, Empty())).uses
    return uses, rewrapped, failed


async def _rewrap_all(rpc: "RpcClient", progress: Progress) -> tuple[int, list[str]]:
    from morpheus_common.contracts.vault import REWRAP_KEYS, RewrapKeys, WrappedKind

    rewrapped, failed = 0, list[str]()
    for kind in WrappedKind:
        last, more = None, True
        while more:
            batch = await rpc.call(REWRAP_KEYS, RewrapKeys(kind=kind, after=last))
            rewrapped, last, more = rewrapped + batch.rewrapped, batch.last, batch.last is not None
            failed += batch.failed
            progress.waiting_for(f"{rewrapped} keys rewrapped …")
    return rewrapped, failed


def _report(uses: "list[KekUse]", rewrapped: int, remaining: int, failed: list[str], *, dry_run: bool) -> list[str]:
    lines = [f"{_name(use)}: {use.records} keys{' (current)' if use.current else ''}" for use in uses]
    lines.append(f"{remaining} to rewrap." if dry_run else f"{rewrapped} rewrapped, {remaining} on older versions.")
    if failed:
        lines.append(f"{len(failed)} do not open, auth's log says why: {', '.join(failed[:10])}")
    if remaining and not dry_run:
        lines.append("Older versions are still needed. Does every auth process have the new one? Then run this again.")
    unused = [_name(use) for use in uses if not use.current and not use.records]
    if unused:
        lines.append(
            f"Nothing is wrapped by {', '.join(unused)} any more: to be removed when no auth process has it as its newest, "
            "and no backup from before today has to be read again."
        )
    return lines


def _name(use: "KekUse") -> str:
    return " ".join(part for part in (use.provider, use.key, f"version {use.version}") if part)
