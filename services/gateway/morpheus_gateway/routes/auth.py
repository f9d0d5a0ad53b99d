"""Accounts and logins."""

from typing import Annotated

from fastapi import APIRouter
from morpheus_common.contracts.auth import LOGIN, REFRESH, REGISTER, Login, Refresh, Register, UserRow
from pydantic import BaseModel, Field

from morpheus_gateway.context import ContextOf

router = APIRouter(prefix="/api/v1/auth", tags=["auth"])

Email = Annotated[str, Field(min_length=3, max_length=320)]


class Registration(BaseModel):
    """A new account."""

    email: Email
    password: str = Field(min_length=8, max_length=1_024)
    name: str | None = Field(None, max_length=200)


class Credentials(BaseModel):
    """An account's e-mail and password. No rule on the password's length: a short one is as wrong as any other."""

    email: Email
    password: str = Field(max_length=4_096)


class RefreshRequest(BaseModel):
    """A refresh token to exchange."""

    refresh_token: str = Field(min_length=1, max_length=1_024)


class Tokens(BaseModel):
    """What a login gives. `expires_in` in seconds."""

    access_token: str
    refresh_token: str
    token_type: str = "bearer"  # noqa: S105 - the type's name, no token
    expires_in: int


@router.post("/register", status_code=201)
async def register(body: Registration, context: ContextOf) -> UserRow:
    """Make an account."""
    return await context.secrets.ask(
        REGISTER, body.password, lambda sealed: Register(email=body.email, name=body.name, password=sealed)
    )


@router.post("/login")
async def login(body: Credentials, context: ContextOf) -> Tokens:
    """Exchange e-mail and password for tokens."""
    tokens = await context.secrets.ask_for_tokens(
        LOGIN, body.password, lambda sealed, key: Login(email=body.email, password=sealed, answer_key=key)
    )
    return Tokens.model_validate(tokens)


@router.post("/refresh")
async def refresh(body: RefreshRequest, context: ContextOf) -> Tokens:
    """Exchange a refresh token for new tokens; it is spent by that."""
    tokens = await context.secrets.ask_for_tokens(
        REFRESH, body.refresh_token, lambda sealed, key: Refresh(refresh_token=sealed, answer_key=key)
    )
    return Tokens.model_validate(tokens)
