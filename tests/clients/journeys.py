"""What clients of any kind send: tools and pictures; and reading what curl shows."""

import base64
import json
import random
from typing import Any

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "the weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}

NEVER_ANSWERED = (
    "provider request failed: read timed out after 3 retries: read tcp 10.77.0.1:51000->10.77.0.11:3333: i/o timeout"
)
"""What a router says of a provider that never answered."""


def picture(megabytes: int) -> str:
    """A data URL of about this size. No two bytes in a row that a compressor could like."""
    noise = random.Random(megabytes).randbytes(megabytes * 1024 * 1024 * 3 // 4)
    return "data:image/png;base64," + base64.b64encode(noise).decode()


def spoken(stream: str) -> str:
    """The text of a streamed answer, of its bytes as they came."""
    events = [line[6:] for line in stream.splitlines() if line.startswith("data: {")]
    chunks = [json.loads(event) for event in events]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk.get("choices", ()))
