"""API keys: made, shown, changed, given another secret, deactivated."""

import asyncio
from typing import Annotated, Any, Self

from fastapi import APIRouter, Path
from morpheus_common.contracts.auth import (
    CHANGE_KEY,
    CREATE_KEY,
    DEACTIVATE_KEY,
    GET_KEY,
    LIST_KEYS,
    MAX_GRACE_SECONDS,
    ROTATE_KEY,
    ChangeKey,
    CreateKey,
    DeactivateKey,
    GetKey,
    KeyField,
    KeyRow,
    ListKeys,
    RotateKey,
    Scope,
)
from morpheus_common.contracts.base import UtcTime
from morpheus_common.contracts.sessions import GET_SESSION, GetSession
from morpheus_common.errors import ApiError
from pydantic import BaseModel, Field, StrictInt

from morpheus_gateway import api_keys
from morpheus_gateway.context import Context, ContextOf
from morpheus_gateway.examples import MODEL, UUID, example
from morpheus_gateway.openapi_parts import errors
from morpheus_gateway.principal import KeyCaller, TokenCaller, key_of
from morpheus_gateway.times import Moment

router = APIRouter(prefix="/api/v1/auth/keys", tags=["auth"])

KeyName = Annotated[str, Field(max_length=100)]
Scopes = Annotated[list[Scope], Field(min_length=1)]
ModelNames = Annotated[list[Annotated[str, Field(max_length=256)]], Field(min_length=1, max_length=100)]
KeyId = Annotated[str, Path(max_length=64, description="id of the key", examples=[UUID])]
SESSION_LOOKUP_SECONDS = 1.0
"""A list of keys does not wait long for the one column that another service knows."""


class NewKey(BaseModel):
    """What an API key may do. Models by name or chain id."""

    model_config = example(
        {"name": "laptop"}, {"name": "batch jobs", "scopes": ["chat", "sessions"], "allowed_models": [MODEL]}
    )

    name: KeyName | None = None
    expires_at: Moment | None = None
    scopes: Scopes | None = None
    allowed_models: ModelNames | None = None


class KeyChanges(BaseModel):
    """What is to be different. What is left out stays; null clears `name`, `expires_at` and `allowed_models`."""

    model_config = example({"name": "server"})

    name: KeyName | None = None
    expires_at: Moment | None = None
    scopes: Scopes = list(Scope)
    allowed_models: ModelNames | None = None


class Rotation(BaseModel):
    """`grace_seconds`: how long the key in use goes on working, up to 30 days."""

    model_config = example({"grace_seconds": 3_600})

    grace_seconds: StrictInt = Field(86_400, ge=0, le=MAX_GRACE_SECONDS)


class ShownKey(KeyRow):
    """An API key in a list, with its current session."""

    session_id: str | None = None


class MadeKey(BaseModel):
    """An API key just made. `key` is shown here, and never again."""

    id: str
    key: str
    key_prefix: str
    name: str | None
    created_at: UtcTime
    expires_at: UtcTime | None
    scopes: list[Scope]
    allowed_models: list[str] | None

    @classmethod
    def of(cls, key: str, row: KeyRow, **more: Any) -> Self:
        """Show a key."""
        return cls(key=key, **row.model_dump(exclude={"user_id", "is_active", "last_used_at"}), **more)


class RotatedKey(MadeKey):
    """An API key with its new secret. The one before works until `previous_key_expires_at`."""

    previous_key_expires_at: UtcTime


def _model_ids(context: Context, names: list[str] | None) -> list[str] | None:
    """Return models by id: a name could be another model's later."""
    return None if names is None else [context.catalogue.models.find(name).id for name in names]


@router.post("", status_code=201, responses=errors("key_limit_reached", "model_not_found"))
async def create_api_key(body: NewKey, caller: TokenCaller, context: ContextOf) -> MadeKey:
    """Make an API key. It is shown in this answer and never again: all that is kept of it is a hash."""
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
            allowed_models=_model_ids(context, body.allowed_models),
        ),
    )
    return MadeKey.of(key, row)


@router.get("")
async def get_api_keys(caller: TokenCaller, context: ContextOf) -> list[ShownKey]:
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


@router.get("/current")
async def get_current_api_key(caller: KeyCaller, context: ContextOf) -> KeyRow:
    """The row of the API key that asks."""
    key_id, _ = key_of(caller)
    try:
        return await context.rpc.call(GET_KEY, GetKey(user_id=caller.user_id, key_id=key_id))
    except ApiError as error:
        if error.code != "key_not_found":
            raise
        raise ApiError("invalid_api_key") from None


@router.patch("/{key_id}", responses=errors("key_not_found", "key_inactive", "model_not_found"))
async def change_api_key(key_id: KeyId, body: KeyChanges, caller: TokenCaller, context: ContextOf) -> KeyRow:
    """Change a key's name, end, scopes or models. A revoked or expired key stays what it is: 409."""
    return await context.rpc.call(
        CHANGE_KEY,
        ChangeKey(
            user_id=caller.user_id,
            key_id=key_id,
            fields=[field for field in KeyField if field.value in body.model_fields_set],
            name=body.name,
            expires_at=body.expires_at,
            scopes=body.scopes,
            allowed_models=_model_ids(context, body.allowed_models),
        ),
    )


@router.post("/{key_id}/rotate", responses=errors("key_not_found", "key_inactive", "key_rotation_limit"))
async def rotate_api_key(
    key_id: KeyId, caller: TokenCaller, context: ContextOf, body: Rotation | None = None
) -> RotatedKey:
    """Replace a key by a new one with the same id, so that session and limits stay. The old one works for the grace."""
    grace_seconds = (body or Rotation()).grace_seconds
    key = api_keys.make()
    answer = await context.rpc.call(
        ROTATE_KEY,
        RotateKey(
            user_id=caller.user_id,
            key_id=key_id,
            key_prefix=api_keys.prefix_of(key),
            sha256=api_keys.digest(key),
            grace_seconds=grace_seconds,
        ),
    )
    return RotatedKey.of(key, answer.row, previous_key_expires_at=answer.previous_until)


@router.delete("/{key_id}", responses=errors("key_not_found"))
async def delete_api_key(key_id: KeyId, caller: TokenCaller, context: ContextOf) -> KeyRow:
    """Deactivate a key; repeatable. It is refused everywhere within a second."""
    return await context.rpc.call(DEACTIVATE_KEY, DeactivateKey(user_id=caller.user_id, key_id=key_id))
