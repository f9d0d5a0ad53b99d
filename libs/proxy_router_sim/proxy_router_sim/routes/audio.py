"""Speech and transcriptions (contract section 2.10). They wait for the session's turn like any prompt."""

import email.parser
import email.policy
import re
from typing import Final

from aiohttp import web

from proxy_router_sim import gojson, params, sse
from proxy_router_sim.audio import speech, transcript
from proxy_router_sim.errors import ModelError, RouterError
from proxy_router_sim.marketplace import Model
from proxy_router_sim.routes.route import SIMULATOR, Route

_CHUNK: Final = 4_096
"""Bytes of a recording in one write."""
_TEXT_FORMATS: Final = frozenset({"text", "srt", "vtt"})


async def speak(request: web.Request) -> web.StreamResponse:
    session_id = params.session_id(request)
    body = await params.json_body(request)
    if session_id is None:
        raise RouterError("api adapter not found: ")
    async with request.app[SIMULATOR].node.prompt(session_id) as model:
        _check(model, "TTS", "Speech")
        recording, content_type = speech(body)
        response = web.StreamResponse(headers={"Content-Type": content_type})
        response.enable_chunked_encoding()
        await response.prepare(request)
        for start in range(0, len(recording), _CHUNK):
            await response.write(recording[start : start + _CHUNK])
    return response


async def transcribe(request: web.Request) -> web.StreamResponse:
    """A JSON object, plain text, or a stream of deltas without an end mark."""
    session_id = params.session_id(request)
    fields = _form(request.headers.get("Content-Type", ""), await request.read())
    recording = fields.get("file") or fields.get("s3_presigned_url")
    if recording is None:
        raise RouterError("Failed to get file: http: no such file")
    if session_id is None:
        raise RouterError("api adapter not found: ")
    async with request.app[SIMULATOR].node.prompt(session_id) as model:
        _check(model, "STT", "Transcriptions")
        text = transcript(recording)
        form = (fields.get("response_format") or fields.get("format") or b"json").decode(errors="replace")
        if fields.get("stream") == b"true":
            return await _streamed(request, text)
    if form in _TEXT_FORMATS:
        return web.Response(text=text, content_type="text/plain")
    return web.Response(body=gojson.encode({"text": text}), headers={"Content-Type": "application/json"})


async def _streamed(request: web.Request, text: str) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    for word in re.findall(r"\s*\S+", text):
        await response.write(sse.frame({"type": "transcript.text.delta", "text": "", "delta": word}))
    await response.write(sse.frame({"type": "transcript.text.done", "text": text}))
    return response


def _check(model: Model, kind: str, api: str) -> None:
    if model.type != kind:
        message = f"The model {model.name} does not support the {api} API"
        raise ModelError({"error": {"message": message, "type": "invalid_request_error"}})


def _form(content_type: str, raw: bytes) -> dict[str, bytes]:
    """The fields of a multipart body. Raises RouterError if it is none."""
    if not content_type.startswith("multipart/form-data"):
        raise RouterError("Failed to get file: request Content-Type isn't multipart/form-data")
    whole = f"Content-Type: {content_type}\r\n\r\n".encode() + raw
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(whole)
    fields: dict[str, bytes] = {}
    for part in message.iter_parts():
        name, value = part.get_param("name", header="Content-Disposition"), part.get_payload(decode=True)
        if isinstance(name, str) and isinstance(value, bytes):
            fields[name] = value
    return fields


ROUTES = [
    Route("POST", "/v1/audio/speech", speak, "speech", "audio_speech"),
    Route("POST", "/v1/audio/transcriptions", transcribe, "transcription", "audio_transcription"),
]
