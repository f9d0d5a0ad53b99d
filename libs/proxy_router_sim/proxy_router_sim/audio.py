"""Speech and transcripts of the simulated model: a tone for each letter, and words for the bytes of a recording."""

import hashlib
import io
import math
import struct
import wave
from typing import Any, Final

from proxy_router_sim.errors import ModelError

CONTENT_TYPES: Final = {
    "mp3": "audio/mpeg",
    "opus": "audio/opus",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}
_RATE: Final = 8_000
"""Samples in a second."""
_SAMPLES_OF_A_LETTER: Final = 400
_LONGEST_INPUT: Final = 4_096
"""Characters, as with OpenAI."""
_WORDS: Final = ["calm", "river", "stone", "light", "tower", "green", "north", "paper", "signal", "winter"]


def speech(request: dict[str, Any]) -> tuple[bytes, str]:
    """A recording of ``input`` and its content type. Only wav and pcm can be played; the other formats are made up.

    Raises ModelError for an input or a format that a model would refuse.
    """
    text, form = request.get("input"), request.get("response_format") or "mp3"
    if not isinstance(text, str) or not 0 < len(text) <= _LONGEST_INPUT:
        raise _refusal(f"input is a text of up to {_LONGEST_INPUT} characters")
    if not isinstance(form, str) or form not in CONTENT_TYPES:
        raise _refusal(f"response_format is one of {', '.join(CONTENT_TYPES)}")
    tones = b"".join(_tone(ord(letter)) for letter in text)
    match form:
        case "wav":
            file = io.BytesIO()
            with wave.open(file, "wb") as writer:
                writer.setnchannels(1)
                writer.setsampwidth(2)
                writer.setframerate(_RATE)
                writer.writeframes(tones)
            return file.getvalue(), CONTENT_TYPES[form]
        case "pcm":
            return tones, CONTENT_TYPES[form]
        case _:
            return hashlib.shake_256(f"{form}/{text}".encode()).digest(len(text) * 100), CONTENT_TYPES[form]


def transcript(recording: bytes) -> str:
    """What is heard in a recording: always the same words for the same bytes."""
    digest = hashlib.sha256(recording).digest()
    return f"A recording of {len(recording)} bytes: {' '.join(_WORDS[byte % len(_WORDS)] for byte in digest[:8])}."


def _tone(letter: int) -> bytes:
    pitch = 200 + letter % 64 * 10
    samples = (int(8_000 * math.sin(2 * math.pi * pitch * i / _RATE)) for i in range(_SAMPLES_OF_A_LETTER))
    return struct.pack(f"<{_SAMPLES_OF_A_LETTER}h", *samples)


def _refusal(message: str) -> ModelError:
    return ModelError({"error": {"message": message, "type": "invalid_request_error"}})
