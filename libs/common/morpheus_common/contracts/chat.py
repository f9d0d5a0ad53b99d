"""What travels with a prompt: the head of the request, what the worker says of the answer, how it failed.

The bytes of the prompt and of the answer are never decoded into these models.
"""

from enum import StrEnum
from typing import Any

from pydantic import Field

from morpheus_common.contracts.base import ChainId, Message
from morpheus_common.contracts.sessions import ModelType
from morpheus_common.errors import ApiError


class Endpoint(StrEnum):
    """The router's endpoints that run in a session."""

    CHAT = "chat/completions"
    EMBEDDINGS = "embeddings"

    @property
    def model_type(self) -> ModelType:
        """The type of the models that answer here."""
        return ModelType.EMBEDDING if self is Endpoint.EMBEDDINGS else ModelType.LLM

    def takes(self, model_type: ModelType) -> bool:
        """Tell whether a model of this type may answer here: one of no known type is given a try."""
        return model_type in {self.model_type, ModelType.UNKNOWN}

    def require(self, model_type: ModelType) -> None:
        """Raise `model_type_mismatch` (400) for a model that is known to be of another type."""
        if not self.takes(model_type):
            raise ApiError(
                "model_type_mismatch",
                f"This model is of type {model_type}; name one of type {self.model_type} here (GET /api/v1/models).",
                param="model",
                details={"type": model_type},
            )


class PromptHead(Message):
    """Everything the worker decides by. Sent as JSON in the header `Mor-Head` of `chat.start`.

    `model_id` None: whatever the key's current session offers. `session_id`: the client insists on this session.
    `choices` is how many answers are asked for (`n`): a stream is complete when so many have ended.
    `body_bytes` is the whole body's length; what does not fit in the first message follows in body frames.
    `open_wait` is how long the client waits for a session to open (seconds). `ping`: there is no body; the answer is a
    `PingAnswer` in one data frame, and no session is opened for it.
    `credit`: the attempt has this credit from the start, in bytes, and need not be accepted. `takes_last`: the gateway
    knows frames of the kind `last`. Workers and gateways that know neither go on as before.
    """

    attempt: str
    gateway: str
    request_id: str
    user_id: str
    key_id: str
    key_prefix: str
    endpoint: Endpoint = Endpoint.CHAT
    model_id: ChainId | None = None
    session_id: ChainId | None = None
    stream: bool
    include_usage: bool = False
    choices: int = Field(1, ge=1)
    body_bytes: int = Field(ge=0)
    open_wait: float = Field(ge=0, le=300)
    ping: bool = False
    credit: int = Field(0, ge=0)
    takes_last: bool = False


class PingStatus(StrEnum):
    """`alive`: it answers, or a prompt is running in it. `dead`: it does not, and is being closed on chain."""

    ALIVE = "alive"
    DEAD = "dead"
    EXPIRED = "expired"
    NO_SESSION = "no_session"


class PingAnswer(Message):
    """How a key's session is. `latency_ms`: until the first token; None if the provider was not asked or did not answer."""

    status: PingStatus
    session_id: ChainId | None = None
    latency_ms: int | None = None


class AcceptFrame(Message):
    """The worker will run the prompt once this attempt has its first credit."""

    worker: str


class OwnerFrame(Message):
    """Another worker owns the key's session: start there."""

    worker: str


class AnswerHead(Message):
    """What the gateway tells the client about the answer; comes with the first data frame.

    `elsewhere`: seconds of the worker's until then that were not its own, but the provider's, the chain's and earlier prompts' of
    the key. For the gateway's metrics; a worker may leave it out.
    """

    model: str
    session_id: ChainId
    provider: str
    elsewhere: float | None = None


class ErrorFrame(Message):
    """The end of an attempt that failed.

    `not_sent` is the worker's word that no byte of the prompt has gone to a router, so that it may be sent again;
    `owner` names the worker to send it to. The other fields are those of `ApiError`.
    """

    code: str
    message: str
    param: str | None = None
    retry_after: int | None = None
    details: dict[str, Any] | None = None
    upstream_code: str | None = None
    not_sent: bool = False
    owner: str | None = None
