"""The private key of a user: stored, told of, deleted; never shown. It has no use yet: the router signs with its own.

All of it needs a login of the last hour.
"""

from typing import Annotated

from fastapi import APIRouter
from morpheus_common.contracts.base import UtcTime
from morpheus_common.contracts.vault import (
    DELETE_PRIVATE_KEY,
    PRIVATE_KEY_STATUS,
    STORE_PRIVATE_KEY,
    PrivateKeyOf,
    PrivateKeyStatus,
    StorePrivateKey,
)
from pydantic import BaseModel, Field, Secret

from morpheus_gateway.context import ContextOf
from morpheus_gateway.examples import example
from morpheus_gateway.openapi_parts import errors
from morpheus_gateway.principal import RecentCaller

router = APIRouter(prefix="/api/v1/auth/private-key", tags=["auth"])


class PrivateKeyUpload(BaseModel):
    """A private key of Ethereum: 64 hex digits, `0x` optional. Auth says what is wrong with one; nothing is mended."""

    model_config = example({"private_key": "0x" + "0123456789abcdef" * 4})

    # `SecretStr` would let half a character (a lone surrogate) through, which nothing can encode
    private_key: Secret[Annotated[str, Field(max_length=1_024)]]


class DeletedPrivateKey(BaseModel):
    """What was deleted."""

    message: str = "Private key deleted"
    address: str
    deleted_at: UtcTime


@router.post("", status_code=201, responses=errors("development_key_refused"))
async def store_private_key(body: PrivateKeyUpload, caller: RecentCaller, context: ContextOf) -> PrivateKeyStatus:
    """Store a private key, encrypted; it replaces any other. It is kept for you and signs nothing yet."""
    return await context.secrets.ask(
        STORE_PRIVATE_KEY,
        body.private_key.get_secret_value(),
        lambda sealed: StorePrivateKey(user_id=caller.user_id, private_key=sealed),
    )


@router.get("")
async def get_private_key_status(caller: RecentCaller, context: ContextOf) -> PrivateKeyStatus:
    """Whether there is a private key, and its address. The key itself is never shown."""
    return await context.rpc.call(PRIVATE_KEY_STATUS, PrivateKeyOf(user_id=caller.user_id))


@router.delete("", responses=errors("private_key_not_found"))
async def delete_private_key(caller: RecentCaller, context: ContextOf) -> DeletedPrivateKey:
    """Delete the private key: what is left of it in the database cannot be decrypted by anybody."""
    deleted = await context.rpc.call(DELETE_PRIVATE_KEY, PrivateKeyOf(user_id=caller.user_id))
    return DeletedPrivateKey(address=deleted.address, deleted_at=deleted.deleted_at)
