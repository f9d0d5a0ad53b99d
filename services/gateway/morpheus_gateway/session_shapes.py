"""The bodies of the session endpoints and the forms of their parameters, as OpenAPI tells of them."""

from typing import Annotated, Any, Literal, Self

from morpheus_common.contracts.base import ChainId, UtcTime, Wei
from morpheus_common.contracts.chat import PingStatus
from morpheus_common.contracts.sessions import AutomationWord, SessionRow, SessionState, Slot
from pydantic import BaseModel, Field, StrictBool, StrictInt, StringConstraints

from morpheus_gateway.examples import example

AnyCaseChainId = Annotated[str, StringConstraints(pattern=r"^0x[0-9a-fA-F]{64}$", to_lower=True)]
"""`0x` and 64 hex digits, however they are written."""


class OpenRequest(BaseModel):
    """How the session shall be. `sessionDuration` in seconds. `failover` is accepted and not passed on."""

    model_config = example({"sessionDuration": 3_600})

    duration: StrictInt | None = Field(None, alias="sessionDuration", ge=300)
    direct_payment: StrictBool = Field(False, alias="directPayment")
    failover: StrictBool = False


class SessionShown(BaseModel):
    """A session of the API key. Times and stake are those on chain, null while it is opening; amounts in wei."""

    success: Literal[True] = True
    message: str
    session_id: ChainId | None
    api_key_prefix: str
    model: str
    bid_id: ChainId | None
    provider: str | None
    stake: Wei | None
    price_per_second: Wei | None
    opened_at: UtcTime | None
    expires_at: UtcTime | None

    @classmethod
    def of(cls, row: SessionRow, message: str, **more: Any) -> Self:
        """Show a session."""
        return cls(
            message=message,
            session_id=row.session_id,
            api_key_prefix=row.key_prefix,
            model=row.model,
            bid_id=row.bid_id,
            provider=row.provider,
            stake=row.stake,
            price_per_second=row.price_per_second,
            opened_at=row.opened_at,
            expires_at=row.expires_at,
            **more,
        )


class SessionNow(SessionShown):
    """A session with what it is doing.

    `slot`: `current` takes the key's prompts, `next` will replace it, null is neither. `automation`: the decision that
    made it the key's session; null if you did.
    """

    state: SessionState
    slot: Slot | None
    last_used_at: UtcTime | None
    automation: AutomationWord | None

    @classmethod
    def now(cls, row: SessionRow) -> Self:
        """Show a session as it is now."""
        return cls.of(
            row,
            f"The session is {row.state}.",
            state=row.state,
            slot=row.slot,
            last_used_at=row.last_used_at,
            automation=row.automation,
        )


class SessionPinged(BaseModel):
    """Whether the key's session answers. `latency_ms`: until the first token, null if it was not asked or is not alive."""

    status: PingStatus
    success: bool
    message: str
    session_id: ChainId | None
    latency_ms: int | None


class SessionClosed(BaseModel):
    """The chain has confirmed it. `session_id` is null if there was nothing on chain to close."""

    success: Literal[True] = True
    message: str
    session_id: ChainId | None


class ClosePending(BaseModel):
    """The wait is over, the close is not: it goes on by itself. `Location` tells how it stands."""

    status: Literal["pending"] = "pending"
    operation_id: str
    session_id: ChainId | None
    message: str = "The session is being closed; that goes on by itself."
