"""Small deterministic embeddings: a sum of word vectors, so that texts with common words are near each other."""

import base64
import math
import random
import struct
from typing import Any

from proxy_router_sim.answers import count_tokens
from proxy_router_sim.errors import ModelError

DEFAULT_DIMENSIONS = 16
_MAX_DIMENSIONS = 4096


def embed(request: dict[str, Any], model_name: str) -> dict[str, Any]:
    """The OpenAI embeddings answer. Raises ModelError for an input that is neither text nor token ids."""
    texts = _inputs(request.get("input"))
    dimensions = request.get("dimensions") or DEFAULT_DIMENSIONS
    if not isinstance(dimensions, int) or not 0 < dimensions <= _MAX_DIMENSIONS:
        raise ModelError({"error": {"message": "dimensions out of range", "type": "invalid_request_error"}})
    as_base64 = request.get("encoding_format") == "base64"
    tokens = sum(count_tokens(text) for text in texts)
    data: list[dict[str, Any]] = []
    for index, text in enumerate(texts):
        vector = _vector(text, dimensions)
        packed = base64.b64encode(struct.pack(f"<{dimensions}f", *vector)).decode() if as_base64 else vector
        data.append({"object": "embedding", "embedding": packed, "index": index})
    return {
        "object": "list",
        "data": data,
        "model": model_name,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _inputs(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if all(isinstance(item, str) for item in value):
            return list(value)
        if all(isinstance(item, int) for item in value):
            return [" ".join(map(str, value))]
        if all(isinstance(item, list) for item in value):
            return [" ".join(map(str, item)) for item in value]
    raise ModelError({"error": {"message": "input must be a string or a list", "type": "invalid_request_error"}})


def _vector(text: str, dimensions: int) -> list[float]:
    total = [0.0] * dimensions
    for word in text.lower().split() or [""]:
        rng = random.Random(word)
        for i in range(dimensions):
            total[i] += rng.gauss(0, 1)
    length = math.sqrt(sum(x * x for x in total)) or 1.0
    return [round(x / length, 6) for x in total]
