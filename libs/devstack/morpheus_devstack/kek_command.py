"""`morpheus rotate-kek`: brings every wrapped key of auth to the current version of the key-encryption key.

Auth does the work, a batch a question. Nothing is remembered here: after an interruption it is run again.
"""

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import typer

from morpheus_devstack.console import Progress, write_out
from morpheus_devstack.operator_console import Data, ask

if TYPE_CHECKING:
    from morpheus_common.bus.rpc import RpcClient
    from morpheus_common.contracts.vault import KekName, KekUse

REMAINING = 3
"""Exit code when records remain on another version, or another version is current than has to be. 1: it could not be done;
2: the command was not understood.
"""

Version = Annotated[
    str | None,
    typer.Option(
        "--version",
        metavar="N",
        help="the version in AUTH_KEYRING that has to be current (vault:N or aws:KEY-MATERIAL where these wrap); "
        "else exit code 3, and auth processes with another one rewrap nothing",
    ),
]


@dataclass
class _Outcome:
    uses: "list[KekUse]" = field(default_factory=list)
    rewrapped: int = 0
    failed: list[str] = field(default_factory=list)
    mismatch: str | None = None
    """What has to be done before this is run again, if the processes asked do not all wrap with the version that is due."""

    @property
    def current(self) -> "KekUse":
        return next(use for use in self.uses if use.current)

    @property
    def remaining(self) -> int:
        return sum(use.records for use in self.uses if not use.current)


def rotate_kek(
    data: Data = None,
    version: Version = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what each version wraps; change nothing")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False,
) -> None:
    """Rewrap all keys at rest to the current key-encryption key, while everything runs. Repeatable.

    First give every auth process the new version and make it the current one, then run this with --version, then remove the
    old version. Exit code 3: some remain, or another version is current.
    """
    with Progress() as progress:
        outcome = ask(data, lambda rpc: _run(rpc, progress, version, dry_run=dry_run), worker="auth")
    if as_json:
        told = {
            "rewrapped": outcome.rewrapped,
            "remaining": outcome.remaining,
            "failed": outcome.failed,
            "current": _name(outcome.current),
            "mismatch": outcome.mismatch,
            "versions": [use.model_dump() for use in outcome.uses],
        }
        write_out(json.dumps(told) + "\n")
    else:
        write_out("".join(f"{line}\n" for line in _report(outcome, dry_run=dry_run)))
    if outcome.mismatch or (outcome.remaining and not dry_run):
        raise typer.Exit(REMAINING)


async def _run(rpc: "RpcClient", progress: Progress, version: str | None, *, dry_run: bool) -> _Outcome:
    from morpheus_common.contracts.base import Empty
    from morpheus_common.contracts.vault import KEK_USES, KekName

    asked = None if version is None else _parse(version)
    outcome, expected = _Outcome(), asked
    if not dry_run:
        expected = await _rewrap_all(rpc, progress, asked, outcome)
    outcome.uses = (await rpc.call(KEK_USES, Empty())).uses
    if outcome.mismatch is None:
        now = outcome.current
        outcome.mismatch = _mismatch(asked, expected, KekName(provider=now.provider, key=now.key, version=now.version))
    return outcome


async def _rewrap_all(
    rpc: "RpcClient", progress: Progress, asked: "KekName | None", outcome: _Outcome
) -> "KekName | None":
    """Let auth rewrap until a process turns up that has another version, and return the version they all have to have."""
    from morpheus_common.contracts.vault import REWRAP_KEYS, RewrapKeys, WrappedKind

    expected = asked
    for kind in WrappedKind:
        last, more = None, True
        while more:
            batch = await rpc.call(REWRAP_KEYS, RewrapKeys(kind=kind, after=last, expected=expected))
            outcome.rewrapped += batch.rewrapped
            outcome.failed += batch.failed
            progress.waiting_for(f"{outcome.rewrapped} keys rewrapped …")
            # nobody asked for one: it has to be the same from the first batch to the last
            expected = expected or batch.current
            outcome.mismatch = _mismatch(asked, expected, batch.current)
            if outcome.mismatch is not None:
                return expected
            last, more = batch.last, batch.last is not None
    return expected


def _parse(version: str) -> "KekName":
    """Read `N`, of the local provider, or `PROVIDER:VERSION`."""
    from morpheus_common.contracts.vault import KekName

    provider, _, number = version.rpartition(":")
    return KekName(provider=provider or "local", version=number)


def _mismatch(asked: "KekName | None", expected: "KekName | None", current: "KekName | None") -> str | None:
    """Say what is wrong if `current`, of one process, is not the version it has to be. Earlier ones do not tell theirs."""
    if asked is None:
        if expected is None or current is None or expected.fits(current):
            return None
        return (
            f"Auth processes differ in what is current: {_name(expected)} and {_name(current)}. Every version is still "
            "needed. Wait until all processes are replaced, then run this again, with --version."
        )
    if current is None:
        return (
            "An auth process of an earlier release answered: it does not say which version is current, and may have "
            "rewrapped to an older one. Every version is still needed. Replace all auth processes, then run this again."
        )
    if asked.fits(current):
        return None
    return (
        f"For an auth process {_name(current)} is current, not {_name(asked)}: it rewrapped nothing. Every version is still "
        f"needed. Give all auth processes {_name(asked)} and make it the current one, wait until all are replaced, then run "
        "this again."
    )


def _report(outcome: _Outcome, *, dry_run: bool) -> list[str]:
    uses, current, remaining, failed = outcome.uses, outcome.current, outcome.remaining, outcome.failed
    lines = [f"{_name(use)}: {use.records} keys{' (current)' if use.current else ''}" for use in uses]
    lines.append(
        f"{remaining} to rewrap." if dry_run else f"{outcome.rewrapped} rewrapped, {remaining} on other versions."
    )
    if failed:
        lines.append(f"{len(failed)} do not open, auth's log says why: {', '.join(failed[:10])}")
    lines.append(f"Current is {_name(current)}.")
    if outcome.mismatch:
        return [*lines, outcome.mismatch]
    if remaining and not dry_run:
        lines.append("Other versions are still needed. Does every auth process have this one? Then run this again.")
    unused = [_name(use) for use in uses if not use.current and not use.records and not _is_newer(use, current)]
    if unused:
        lines.append(
            f"Nothing is wrapped by {', '.join(unused)} any more: to be removed when it is current for no auth process, "
            "and no backup from before today has to be read again."
        )
    return lines


def _is_newer(use: "KekUse", current: "KekUse") -> bool:
    """Tell whether a version is listed already and not current yet."""
    same = (use.provider, use.key) == (current.provider, current.key)
    return same and use.version.isdecimal() and current.version.isdecimal() and int(use.version) > int(current.version)


def _name(use: "KekUse | KekName") -> str:
    return " ".join(part for part in (use.provider, use.key, f"version {use.version}") if part)
