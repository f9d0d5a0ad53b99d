"""The span of a prompt in its worker, named as OpenTelemetry's conventions for generative AI have it.

A model's name is public and on chain; a provider's address too. Of the user, the key and the session it tells nothing.
"""

from morpheus_common.contracts.chat import Endpoint, PromptHead
from morpheus_common.contracts.usage import CLIENT_GONE, OK, UsageRecord
from morpheus_common.tracing import SERVER, Span, continued

_OPERATIONS = {Endpoint.CHAT: "chat", Endpoint.EMBEDDINGS: "embeddings"}


def prompt_span(head: PromptHead, traceparent: str | None) -> Span:
    """Return the span of a prompt that has come."""
    operation = "ping" if head.ping else _OPERATIONS[head.endpoint]
    span = continued(operation, SERVER, traceparent)
    if span.is_recorded:
        span.set("gen_ai.operation.name", operation)
        span.set("gen_ai.provider.name", "morpheus")
        span.set("gen_ai.request.stream", head.stream)
        span.set("morpheus.request_id", head.request_id)
    return span


def describe(span: Span, used: UsageRecord) -> None:
    """Tell of a prompt that is over what it used, and what it came to."""
    if used.model is not None:
        span.rename(f"{_OPERATIONS[used.endpoint]} {used.model}")
        span.set("gen_ai.request.model", used.model)
        span.set("morpheus.provider", used.provider)
    if used.tokens_from is not None:
        span.set("gen_ai.usage.input_tokens", used.prompt_tokens)
        span.set("gen_ai.usage.output_tokens", used.completion_tokens)
        span.set("morpheus.tokens_from", used.tokens_from.value)
    if used.stream and used.first_byte_ms is not None:
        span.set("gen_ai.response.time_to_first_chunk", used.first_byte_ms / 1000)
    if used.outcome != OK:
        span.set("morpheus.outcome", used.outcome)
    if used.outcome == CLIENT_GONE:
        span.set("error.type", used.outcome)
