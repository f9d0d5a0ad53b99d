"""Accounts, logins, API keys."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Path
from morpheus_common.contracts.auth import (
    CREATE_KEY,
    DEACTIVATE_KEY,
    LIST_KEYS,
    LOGIN,
    REFRESH,
    REGISTER,
    CreateKey,
    DeactivateKey,
    KeyRow,
    ListKeys,
    Login,
    Refresh,
    Register,
    Scope,
    UserRow,
)
from morpheus_common.contracts.sessions import GET_SESSION, GetSession
from morpheus_common.errors import ApiError
from pydantic import AwareDatetime, BaseModel, Field

from morpheus_gateway import api_keys
from morpheus_gateway.context import Context, ContextOf
from morpheus_gateway.principal import KeyCaller, TokenCaller

router = APIRouter(prefix="/api/v1/auth", tags=["auth"])

Email = Annotated[str, Field(min_length=3, max_length=320)]
ModelName = Annotated[str, Field(max_length=256)]
SESSION_LOOKUP_SECONDS = 1.0
"""A list of keys does not wait long for the one column that another service knows."""


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


class NewKey(BaseModel):
    """What an API key may do. Models by name or chain id."""

    name: str | None = Field(None, max_length=100)
    expires_at: AwareDatetime | None = None
    scopes: list[Scope] | None = Field(None, min_length=1)
    allowed_models: list[ModelName] | None = Field(None, min_length=1, max_length=100)


class ShownKey(KeyRow):
    """An API key in a list, with its current session."""

    session_id: str | None = None


class MadeKey(BaseModel):
    """A new API key. `key` is shown here and never again."""

    key: str
    row: KeyRow

    def shown(self) -> dict[str, Any]:
        """Return the flat form clients see."""
        return {"key": self.key, **self.row.model_dump(mode="json", exclude={"user_id", "is_active", "last_used_at"})}


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


@router.post("/keys", status_code=201)
async def create_key(body: NewKey, caller: TokenCaller, context: ContextOf) -> dict[str, Any]:
    """Make an API key: here, so that auth and the bus never see it."""
    models = body.allowed_models
    key = api_keys.make()
    row = await context.rpc.call(
        CREATE_KEY,
        CreateKey(
            user_id=caller.user_id,
            key_prefix=api_keys.prefix_of(key),
            sha256=api_keys.digest(key),
            name=body.name,
            expires_at=body.expires_at,
            scopes=body.scopes,
            # by id: a name could be another model's later
            allowed_models=[context.catalogue.models.find(name).id for name in models] if models else None,
        ),
    )
    return MadeKey(key=key, row=row).shown()


@router.get("/keys")
async def list_keys(caller: TokenCaller, context: ContextOf) -> list[ShownKey]:
    """All keys of the user, newest first."""
    answer = await context.rpc.call(LIST_KEYS, ListKeys(user_id=caller.user_id))
    sessions = await asyncio.gather(*(_session_of(context, row) for row in answer.keys))
    return [
        ShownKey(**row.model_dump(), session_id=session) for row, session in zip(answer.keys, sessions, strict=True)
    ]


async def _session_of(context: Context, row: KeyRow) -> str | None:
    if not row.is_active:
        return None
    try:
        current = await context.rpc.call(GET_SESSION, GetSession(key_id=row.id), timeout=SESSION_LOOKUP_SECONDS)
    except ApiError:
        return None
    return current.session.session_id if current.session is not None else None


@router.get("/keys/current")
async def current_key(caller: KeyCaller, context: ContextOf) -> KeyRow:
    """The row of the API key that asks."""
    answer = await context.rpc.call(LIST_KEYS, ListKeys(user_id=caller.user_id))
    for row in answer.keys:
        if row.id == caller.key_id:
            return row
    raise ApiError("invalid_api_key")


@router.delete("/keys/{key_id}")
async def delete_key(key_id: Annotated[str, Path(max_length=64)], caller: TokenCaller, context: ContextOf) -> KeyRow:
    """Deactivate a key; repeatable. It is refused everywhere within a second."""
    return await context.rpc.call(DEACTIVATE_KEY, DeactivateKey(user_id=caller.user_id, key_id=key_id))
