"""The account of who asks: what it is, the end of its logins, a new password."""

import asyncio

from fastapi import APIRouter, Response
from morpheus_common.contracts.accounts import (
    CHANGE_PASSWORD,
    END_LOGINS,
    GET_ACCOUNT,
    RESET_PASSWORD,
    Account,
    ChangePassword,
    EndLogins,
    GetAccount,
    PasswordChange,
    PasswordReset,
    ResetPassword,
)
from morpheus_common.contracts.auth import Caller
from morpheus_common.contracts.base import Wei
from morpheus_common.contracts.sessions import GET_STAKE_AT_RISK, GetStakeAtRisk, StakeAtRisk
from morpheus_common.errors import ApiError
from pydantic import BaseModel, Field, StrictBool

from morpheus_gateway.context import Context, ContextOf
from morpheus_gateway.examples import PASSWORD, example
from morpheus_gateway.openapi_parts import errors
from morpheus_gateway.principal import RecentCaller, TokenCaller
from morpheus_gateway.routes.auth import AnyPassword, ClientAddress, NewPassword

router = APIRouter(prefix="/api/v1/auth", tags=["auth"])

STAKE_LOOKUP_SECONDS = 1.0
"""An account does not wait long for what another service knows of it."""


class Limits(BaseModel):
    """What the user may have at most. `stake_at_risk` in wei."""

    stake_at_risk: Wei


class Me(Account):
    """The account. `stake_at_risk` in wei: what is locked for this user or may be. It and `limits` are null while the
    service that knows them does not answer.
    """

    limits: Limits | None
    stake_at_risk: Wei | None


class Logout(BaseModel):
    """`all`: every login of the user, not only this one."""

    model_config = example({"all": False})

    all: StrictBool = False


class PasswordWish(BaseModel):
    """The password to have from now on."""

    model_config = example({"current_password": PASSWORD, "new_password": f"another {PASSWORD}"})

    current_password: AnyPassword
    new_password: NewPassword


class ResetWish(BaseModel):
    """The password to have from now on. `token` is the operator's."""

    model_config = example({"token": "<reset_token>", "new_password": PASSWORD})

    token: str = Field(min_length=1, max_length=200)
    new_password: NewPassword


@router.get("/me")
async def get_account(caller: TokenCaller, context: ContextOf) -> Me:
    """The user's account, and the stake at risk for him."""
    account, stake = await asyncio.gather(
        context.rpc.call(GET_ACCOUNT, GetAccount(user_id=caller.user_id)), _stake_of(context, caller.user_id)
    )
    return Me(
        **account.model_dump(),
        limits=None if stake is None else Limits(stake_at_risk=stake.limit),
        stake_at_risk=None if stake is None else stake.at_risk,
    )


async def _stake_of(context: Context, user_id: str) -> StakeAtRisk | None:
    try:
        return await context.rpc.call(GET_STAKE_AT_RISK, GetStakeAtRisk(user_id=user_id), timeout=STAKE_LOOKUP_SECONDS)
    except ApiError:
        return None


@router.post("/logout", status_code=204, response_class=Response)
async def logout(caller: TokenCaller, context: ContextOf, body: Logout | None = None) -> None:
    """End this login, or all of the user. Their tokens are refused everywhere within a second."""
    ends_all = body is not None and body.all
    login_id = None if ends_all else _login_of(caller)
    await context.rpc.call(END_LOGINS, EndLogins(user_id=caller.user_id, login_id=login_id))


@router.post(
    "/password",
    status_code=204,
    response_class=Response,
    responses=errors("invalid_credentials", "password_too_common", "overloaded"),
)
async def change_password(body: PasswordWish, caller: RecentCaller, address: ClientAddress, context: ContextOf) -> None:
    """Set another password. All other logins end; API keys stay as they are.

    A wrong current password is a failed login.
    """
    change = PasswordChange(current_password=body.current_password, new_password=body.new_password)
    async with context.limits.failed_logins.attempt(address):
        await context.secrets.ask(
            CHANGE_PASSWORD,
            change.model_dump_json(),
            lambda sealed: ChangePassword(
                user_id=caller.user_id, login_id=_login_of(caller), passwords=sealed, address=address
            ),
        )


@router.post(
    "/password/reset",
    status_code=204,
    response_class=Response,
    responses=errors("invalid_reset_token", "password_too_common", "overloaded", "service_timeout"),
)
async def reset_password(body: ResetWish, context: ContextOf) -> None:
    """Set a forgotten password by a one-time token of the operator. All logins end; API keys stay as they are."""
    reset = PasswordReset(token=body.token.strip(), new_password=body.new_password)
    await context.secrets.ask(RESET_PASSWORD, reset.model_dump_json(), lambda sealed: ResetPassword(reset=sealed))


def _login_of(caller: Caller) -> str:
    if caller.login_id is None:
        msg = "this caller came without an access token"
        raise RuntimeError(msg)
    return caller.login_id
