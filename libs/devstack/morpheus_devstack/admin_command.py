"""`morpheus admin`: what operators do about accounts.

Codes and tokens are made here and shown once; auth is told their SHA-256 over the bus.
"""

import hashlib
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from morpheus_devstack.console import write_err, write_out
from morpheus_devstack.operator_console import Data, ask

if TYPE_CHECKING:
    from morpheus_common.contracts.base import Empty, Message, Rpc

Command = TypeVar("Command", bound="Message")

app = typer.Typer(help="Accounts: who may register, and who forgot his password.", no_args_is_help=True)


@app.command()
def invite(
    data: Data = None,
    count: Annotated[int, typer.Option(min=1, max=1_000, help="how many codes")] = 1,
    expires_days: Annotated[
        int | None, typer.Option(min=1, max=3_650, help="days they are good for; default: until they are used")
    ] = None,
) -> None:
    """Make invite codes, one a line: each is good for one account, and is shown here only."""
    from morpheus_common.contracts.accounts import MAKE_INVITES, MakeInvites

    codes = [_new("invite") for _ in range(count)]
    _tell(data, MAKE_INVITES, MakeInvites(sha256=[_sha256(code) for code in codes], days=expires_days))
    write_out("".join(f"{code}\n" for code in codes))


@app.command("reset-link")
def reset_link(
    email: Annotated[str, typer.Argument(metavar="EMAIL", help="of the account whose password is forgotten")],
    data: Data = None,
) -> None:
    """Make a token for a new password: good once and for an hour, and shown here only."""
    from morpheus_common.contracts.accounts import ALLOW_RESET, AllowReset

    token = _new("reset")
    # a longer address is nobody's
    _tell(data, ALLOW_RESET, AllowReset(email=email[:320], sha256=_sha256(token)))
    write_out(f"{token}\n")
    write_err('Good once, for an hour: POST /api/v1/auth/password/reset {"token": …, "new_password": …}\n')


def _new(kind: str) -> str:
    """Return 256 random bits as text. Logs are masked by how it begins."""
    return f"{kind}-{secrets.token_urlsafe(32)}"


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _tell(data: Path | None, rpc: "Rpc[Command, Empty]", command: Command) -> None:
    ask(data, lambda bus: bus.call(rpc, command), worker="auth")
