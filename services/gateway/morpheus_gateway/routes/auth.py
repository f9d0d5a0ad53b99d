"""Accounts and logins."""

import hashlib
import unicodedata
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from morpheus_common.contracts.auth import LOGIN, REFRESH, REGISTER, Login, Refresh, Register, UserRow
from pydantic import BaseModel, BeforeValidator, Field

from morpheus_gateway.client_address import client_address
from morpheus_gateway.context import ContextOf
from morpheus_gateway.examples import EMAIL, PASSWORD, example
from morpheus_gateway.openapi_parts import errors

router = APIRouter(prefix="/api/v1/auth", tags=["auth"])

Email = Annotated[str, Field(min_length=3, max_length=320)]
NewPassword = Annotated[
    str,
    # as auth counts them: one character may have been typed as two
    BeforeValidator(lambda typed: unicodedata.normalize("NFC", typed) if isinstance(typed, str) else typed),
    Field(min_length=8, max_length=1_024),
]
"""A password that somebody chooses."""
AnyPassword = Annotated[str, Field(max_length=4_096)]
"""A password that is to be right. No rule on its length: a short one is as wrong as any other."""


ClientAddress = Annotated[str, Depends(client_address)]


class Registration(BaseModel):
    """A new account. `invite_code` where the operator asks for one."""

    model_config = example({"email": EMAIL, "password": PASSWORD, "name": "Ada"})

    email: Email
    password: NewPassword
    name: str | None = Field(None, max_length=200)
    invite_code: str | None = Field(None, max_length=200)


class Credentials(BaseModel):
    """An account's e-mail and password."""

    model_config = example({"email": EMAIL, "password": PASSWORD})

    email: Email
    password: AnyPassword


class RefreshRequest(BaseModel):
    """A refresh token to exchange."""

    model_config = example({"refresh_token": "<refresh_token>"})

    refresh_token: str = Field(min_length=1, max_length=1_024)


class Tokens(BaseModel):
    """What a login gives. `expires_in` in seconds."""

    access_token: str
    refresh_token: str
    token_type: str = "bearer"  # noqa: S105 - the type's name, no token
    expires_in: int


@router.post(
    "/register",
    status_code=201,
    responses=errors(
        "email_taken", "password_too_common", "registration_closed", "invite_required", "overloaded", "service_timeout"
    ),
)
async def register_user(request: Request, body: Registration, address: ClientAddress, context: ContextOf) -> UserRow:
    """Make an account."""
    request.state.standing = await context.limits.registrations.take(address)
    code = body.invite_code
    invite = None if code is None else hashlib.sha256(code.strip().encode()).hexdigest()
    return await context.secrets.ask(
        REGISTER,
        body.password,
        lambda sealed: Register(email=body.email, name=body.name, password=sealed, invite_sha256=invite),
    )


@router.post("/login", responses=errors("invalid_credentials", "overloaded", "service_timeout"))
async def login(body: Credentials, address: ClientAddress, context: ContextOf) -> Tokens:
    """Exchange e-mail and password for tokens.

    After too many failed logins of an account, addresses that never logged in to it wait up to a minute for each try.
    """
    async with context.limits.failed_logins.attempt(address):
        tokens = await context.secrets.ask_for_tokens(
            LOGIN,
            body.password,
            lambda sealed, key: Login(email=body.email, password=sealed, answer_key=key, address=address),
        )
    return Tokens.model_validate(tokens)


@router.post("/refresh", responses=errors("invalid_refresh_token", "refresh_token_reused", "service_timeout"))
async def refresh_token(request: Request, body: RefreshRequest, address: ClientAddress, context: ContextOf) -> Tokens:
    """Exchange a refresh token for new tokens; it is spent by that."""
    request.state.standing = await context.limits.refreshes.take(address)
    tokens = await context.secrets.ask_for_tokens(
        REFRESH, body.refresh_token, lambda sealed, key: Refresh(refresh_token=sealed, answer_key=key)
    )
    return Tokens.model_validate(tokens)
