"""Speech and transcriptions, which wait in the same line as other prompts."""

import asyncio
import io
import wave
from typing import Any

import aiohttp
import pytest
from proxy_router_sim.audio import CONTENT_TYPES

from tests.unit.proxy_router_sim.harness import Router, chunks_of, until

BYTES = b"\x00\xff\r\n--\n\r\x85\n.\n"


def form(**fields: Any) -> aiohttp.FormData:
    data = aiohttp.FormData(default_to_multipart=True)
    for name, value in fields.items():
        data.add_field(name, value, **({"filename": "x.wav"} if name == "file" else {}))
    return data


async def transcribe(router: Router, session_id: str, **fields: Any) -> tuple[int, str, bytes]:
    headers = {"session_id": session_id}
    async with router.http.post("/v1/audio/transcriptions", data=form(**fields), headers=headers) as response:
        return response.status, response.content_type, await response.read()


@pytest.mark.parametrize("name", [None, *CONTENT_TYPES])
async def test_speech_has_the_type_of_its_format_and_is_mp3_by_default(router: Router, name: str | None) -> None:
    opened = await router.open("tts-chatterbox")
    body = {"input": "hello", "voice": "any", **({"response_format": name} if name else {})}
    recordings = []
    for _ in range(2):
        async with router.http.post("/v1/audio/speech", json=body, headers={"session_id": opened}) as response:
            assert response.status == 200
            assert response.headers["Content-Type"] == CONTENT_TYPES[name or "mp3"]
            assert response.headers["Transfer-Encoding"] == "chunked"
            recordings.append(await response.read())
    assert recordings[0] == recordings[1] != b""


async def test_speech_in_wav_can_be_played(router: Router) -> None:
    opened = await router.open("tts-chatterbox")
    body = {"input": "four", "response_format": "wav"}
    async with router.http.post("/v1/audio/speech", json=body, headers={"session_id": opened}) as response:
        with wave.open(io.BytesIO(await response.read())) as recording:
            assert recording.getnframes() / recording.getframerate() == pytest.approx(0.2)


@pytest.mark.parametrize("body", [{}, {"input": 7}, {"input": "x" * 5000}, {"input": "x", "response_format": "json"}])
async def test_speech_that_makes_no_sense_is_the_models_error(router: Router, body: dict[str, Any]) -> None:
    status, answer = await router.post("/v1/audio/speech", body, session_id=await router.open("tts-chatterbox"))
    assert (status, list(answer)) == (400, ["providerModelError"])


async def test_a_transcript_is_json_text_or_a_stream_and_always_the_same(router: Router) -> None:
    opened = await router.open("whisper-large-v3")
    status, kind, whole = await transcribe(router, opened, file=BYTES)
    assert (status, kind) == (200, "application/json")
    text = whole.decode().removeprefix('{"text":"').removesuffix('"}')
    assert text.startswith("A recording of 12 bytes: ")
    assert await transcribe(router, opened, file=BYTES, response_format="text") == (
        200,
        "text/plain",
        text.encode(),
    )
    status, kind, stream = await transcribe(router, opened, file=BYTES, stream="true")
    assert (status, kind) == (200, "text/event-stream")
    chunks = chunks_of(stream)
    assert "".join(chunk.get("delta", "") for chunk in chunks) == chunks[-1]["text"] == text
    assert [chunk["type"] for chunk in chunks[-2:]] == ["transcript.text.delta", "transcript.text.done"]
    assert b"[DONE]" not in stream


async def test_a_transcription_without_a_file_is_500(router: Router) -> None:
    opened = await router.open("whisper-large-v3")
    status, _, body = await transcribe(router, opened, language="en")
    assert (status, body) == (500, b'{"error":"Failed to get file: http: no such file"}')
    status, answer = await router.post("/v1/audio/transcriptions", {"file": "x"}, session_id=opened)
    assert (status, answer) == (500, {"error": "Failed to get file: request Content-Type isn't multipart/form-data"})


async def test_a_fault_on_the_route_leaves_the_upload_whole(router: Router) -> None:
    opened = await router.open("whisper-large-v3")
    await router.arm("transcription", "delay", seconds=0)
    assert (await transcribe(router, opened, file=b"abc"))[0] == 200


async def test_a_model_refuses_audio_that_it_cannot_do(router: Router) -> None:
    llm = await router.open()
    assert (await router.post("/v1/audio/speech", {"input": "x"}, session_id=llm))[0] == 400
    assert (await transcribe(router, llm, file=b"abc"))[0] == 400


async def test_audio_and_chat_wait_in_one_line(router: Router) -> None:
    opened = await router.open()
    await router.arm("chat", "stall")
    prompt = asyncio.create_task(router.chat(opened))
    await until(lambda: router.simulator.node.counters["prompts"] == 1)
    speaking = asyncio.create_task(router.post("/v1/audio/speech", {"input": "x"}, session_id=opened))
    embedding = asyncio.create_task(router.post("/v1/embeddings", {"input": "x"}, session_id=opened))
    await until(lambda: router.simulator.node.counters["prompts"] == 3)
    state = await router.get("/sim/state")
    assert state["max_unfinished_prompts_of_a_session"] == 3
    assert not any(task.done() for task in (speaking, embedding))
    async with router.http.delete("/sim/faults"):
        assert [(await task)[0] for task in (prompt, speaking, embedding)] == [200, 400, 400]
