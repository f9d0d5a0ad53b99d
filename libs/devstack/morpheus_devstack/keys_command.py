"""`morpheus keys`: the keys that sign access tokens, and how one follows another."""

from typing import TYPE_CHECKING, Annotated

import typer

from morpheus_devstack.console import write_out
from morpheus_devstack.operator_console import AsJson, Data, ask, write_json, write_table

if TYPE_CHECKING:
    from morpheus_common.bus.rpc import RpcClient
    from morpheus_common.contracts.signing_keys import SigningKeyRows

app = typer.Typer(help="The keys that sign access tokens.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_keys(data: Data = None, as_json: AsJson = False) -> None:
    """Show the signing keys, newest first: kid, state and times (UTC).

    published: everybody can verify with it, it does not sign yet. signing: all new tokens are signed with it. retiring: what
    it signed is accepted until RETIRES.
    """
    _show(ask(data, _list, worker="auth"), as_json=as_json)


@app.command()
def rotate(
    data: Data = None,
    revoke_current: Annotated[
        bool, typer.Option("--revoke-current", help="withdraw the key that signs and all older ones at once")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a new signing key. Nobody is logged out.

    It is published now and signs three minutes later, when every gateway knows it; the old one is accepted until its last
    token has expired, and is then deleted. While a new key waits to sign, this changes nothing.

    --revoke-current is for a key that others may have. The new key signs at once, and all others are withdrawn: access
    tokens signed with them die within a minute, and clients get new ones with their refresh tokens, which go on. For a few
    seconds gateways may refuse tokens of the new key, until they have learned of it.
    """
    if revoke_current and not yes:
        typer.confirm(
            "Every access token there is dies within a minute. Withdraw the signing key?", abort=True, err=True
        )
    _show(ask(data, lambda rpc: _rotate(rpc, revoke_current=revoke_current), worker="auth"), as_json=as_json)


async def _list(rpc: "RpcClient") -> "SigningKeyRows":
    from morpheus_common.contracts.base import Empty
    from morpheus_common.contracts.signing_keys import LIST_SIGNING_KEYS

    return await rpc.call(LIST_SIGNING_KEYS, Empty())


async def _rotate(rpc: "RpcClient", *, revoke_current: bool) -> "SigningKeyRows":
    from morpheus_common.contracts.signing_keys import ROTATE_SIGNING_KEYS, RotateSigningKeys, SigningKeyState

    revoke = None
    if revoke_current:
        # by its name: of two operators at once, the second must not revoke the first one's new key
        rows = await _list(rpc)
        revoke = next(key.kid for key in rows.keys if key.state is SigningKeyState.SIGNING)
    return await rpc.call(ROTATE_SIGNING_KEYS, RotateSigningKeys(revoke=revoke))


def _show(rows: "SigningKeyRows", *, as_json: bool) -> None:
    if as_json:
        write_json(key.model_dump(mode="json") for key in rows.keys)
        return
    cells = [
        [
            key.kid,
            key.state.value,
            *(
                "" if at is None else f"{at:%Y-%m-%d %H:%M:%S}"
                for at in (key.created_at, key.signs_from, key.retires_at)
            ),
        ]
        for key in rows.keys
    ]
    write_table(("KID", "STATE", "CREATED", "SIGNS FROM", "RETIRES"), cells)
    write_out(f"The database's time is {rows.now:%Y-%m-%d %H:%M:%S} UTC.\n")
