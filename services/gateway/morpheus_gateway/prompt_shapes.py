"""The answers to prompts and the lists of models, as OpenAPI tells of them.

The bytes are the provider's, or are served as they were made: nothing is read into these models. A provider's further
fields are passed on, and so every one of them may have more.
"""

from typing import Any, Literal

from morpheus_common.contracts.base import ChainId
from morpheus_common.contracts.sessions import ModelType
from pydantic import BaseModel, ConfigDict

_MORE = ConfigDict(extra="allow")


class ModelObject(BaseModel):
    """A model as OpenAI has it, and what the marketplace knows of it. `id`: the name to ask for it by. `created` in Unix
    seconds. `owned_by`: an address. `blockchainID`: its id on chain, which never changes. `modelType`: from its tags.
    """

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    blockchainID: ChainId  # noqa: N815 - as it was published
    tags: list[str]
    modelType: ModelType  # noqa: N815 - as it was published


class ModelList(BaseModel):
    """Models, in the order in which they were registered."""

    object: Literal["list"]
    data: list[ModelObject]


class TokensUsed(BaseModel):
    """How many tokens it took, as the provider counts; of embeddings none are completed. Some providers count nothing."""

    model_config = _MORE

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None


class ChatMessage(BaseModel):
    """What a model says; `content` is null where it calls tools instead."""

    model_config = _MORE

    role: str | None = None
    content: str | None = None
    tool_calls: list[dict[str, Any]] | None = None


class ChatChoice(BaseModel):
    """One answer to the prompt."""

    model_config = _MORE

    index: int | None = None
    message: ChatMessage
    finish_reason: str | None = None


class ChatCompletion(BaseModel):
    """The answer in one piece: the provider's object. What it lacks of OpenAI's form is filled in, if the router told."""

    model_config = _MORE

    id: str
    object: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: TokensUsed | None = None


class ChatChunkChoice(BaseModel):
    """A piece of one answer to the prompt."""

    model_config = _MORE

    index: int | None = None
    delta: ChatMessage | None = None
    finish_reason: str | None = None


class ChatCompletionChunk(BaseModel):
    """A piece of a streamed answer. With `stream_options: {"include_usage": true}` the last one has no choices, and `usage`."""

    model_config = _MORE

    id: str | None = None
    object: str | None = None
    created: int | None = None
    model: str | None = None
    choices: list[ChatChunkChoice]
    usage: TokensUsed | None = None


class Embedding(BaseModel):
    """One vector: of floats, or as text in base64 if that was asked for (`encoding_format`)."""

    model_config = _MORE

    object: str
    index: int
    embedding: list[float] | str


class EmbeddingList(BaseModel):
    """The vectors, in the order of the texts."""

    model_config = _MORE

    object: str
    data: list[Embedding]
    model: str
    usage: TokensUsed | None = None
