"""Speech and transcriptions (Contract 2.10). Few routers have a model for them, hence the simulator alone."""

import pytest

from tests.contract.target import Router

pytestmark = pytest.mark.simulator


def test_speech_is_streamed_as_mp3_unless_another_format_is_asked_for(router: Router) -> None:
    """Contract 2.10: the content type says which."""
    header = {"session_id": router.open("TTS")}
    for wish, content_type in (({}, "audio/mpeg"), ({"response_format": "wav"}, "audio/wav")):
        response = router.post("/v1/audio/speech", {"input": "hello", "voice": "any", **wish}, headers=header)
        assert response.status_code == 200, response.text
        assert response.headers["Content-Type"] == content_type
        assert response.content


def test_a_transcript_is_json_text_or_a_stream_without_end_mark(router: Router) -> None:
    """Contract 2.10: three forms of one text."""
    header = {"session_id": router.open("STT")}
    answers = [
        router.http.post("/v1/audio/transcriptions", files={"file": b"abc"}, data=wish, headers=header)
        for wish in ({}, {"response_format": "text"}, {"stream": "true"})
    ]
    text = answers[0].json()["text"]
    assert answers[1].headers["Content-Type"].startswith("text/plain")
    assert answers[1].text == text
    assert answers[2].headers["Content-Type"] == "text/event-stream"
    assert '"type":"transcript.text.done"' in answers[2].text
    assert "[DONE]" not in answers[2].text


def test_a_transcription_without_a_file_is_500(router: Router) -> None:
    """Contract 2.10."""
    response = router.http.post(
        "/v1/audio/transcriptions", files={"language": (None, "en")}, headers={"session_id": router.open("STT")}
    )
    assert (response.status_code, response.json()) == (500, {"error": "Failed to get file: http: no such file"})
