"""Plain curl against a running stack: what people type, and what its exit status tells a script."""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.clients.journeys import picture, spoken
from tests.clients.provider import Provider
from tests.e2e.house import Account, House

FAILED_STATUS = 22
TIMED_OUT = 28
"""Of curl's exit statuses: an error's status with --fail or --fail-with-body, and --max-time."""


class Curl:
    """curl with a key and without its progress meter."""

    def __init__(self, house: House, key: str) -> None:
        self._house = house
        self._key = key

    def arguments(self, text: str, *options: str, **fields: Any) -> list[str]:
        body = {"model": self._house.llm, "messages": [{"role": "user", "content": text}], **fields}
        return self.command("chat/completions", "--json", json.dumps(body), *options)

    def command(self, path: str, *options: str) -> list[str]:
        key = ["-H", f"Authorization: Bearer {self._key}"]
        return ["curl", "-sS", "--max-time", "60", *key, *options, f"{self._house.stack.base_url}/{path}"]

    def chat(self, text: str, *options: str, **fields: Any) -> subprocess.CompletedProcess[str]:
        return run(self.arguments(text, *options, **fields))


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)


@contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()


@pytest.fixture
def curl(house: House, account: Account) -> Curl:
    return Curl(house, account.key)


def test_an_answer_is_one_json_object(curl: Curl, mark: str) -> None:
    answer = curl.chat(mark, "--fail-with-body")
    assert answer.returncode == 0
    assert mark in json.loads(answer.stdout)["choices"][0]["message"]["content"]


def test_a_stream_is_shown_while_it_comes_and_ends_with_done(curl: Curl, provider: Provider, mark: str) -> None:
    provider.fail("stall", mark, at=2)
    with running(curl.arguments(mark, "-N", stream=True)) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert json.loads(first.removeprefix("data: "))["object"] == "chat.completion.chunk"
        provider.until_running(mark)
        provider.relent()
        rest = process.stdout.read()
    assert mark in spoken(first + rest)
    assert rest.endswith("data: [DONE]\n\n")
    assert process.returncode == 0


def test_an_accept_header_is_enough_for_a_stream(curl: Curl, mark: str) -> None:
    answer = curl.chat(mark, "-N", "-H", "Accept: text/event-stream")
    assert mark in spoken(answer.stdout)


def test_an_error_has_its_status_its_body_and_an_exit_status(house: House, curl: Curl) -> None:
    refused = Curl(house, "sk-nonsense").chat("hello", "--fail-with-body", "-w", "%{stderr}%{http_code}")
    assert refused.returncode == FAILED_STATUS
    assert refused.stderr.startswith("401") or refused.stderr.endswith("401")
    assert json.loads(refused.stdout)["error"]["code"] == "invalid_api_key"
    assert curl.chat("hello", "--fail", model="no-such-model").returncode == FAILED_STATUS
    broken = run(curl.command("chat/completions", "--json", "{"))
    assert json.loads(broken.stdout)["error"]["code"] == "invalid_json"


@pytest.mark.parametrize("streamed", [False, True])
def test_a_body_with_a_picture_waits_for_the_servers_word_and_is_taken(
    curl: Curl, provider: Provider, tmp_path: Path, mark: str, *, streamed: bool
) -> None:
    """F25: curl sends `Expect: 100-continue` before bodies over a megabyte."""
    parts = [{"type": "text", "text": mark}, {"type": "image_url", "image_url": {"url": picture(6)}}]
    file = tmp_path / "body.json"
    file.write_text(json.dumps({"messages": [{"role": "user", "content": parts}], "stream": streamed}))
    answer = run(curl.command("chat/completions", "--json", f"@{file}", "-v", "--fail-with-body"))
    assert answer.returncode == 0
    assert "> Expect: 100-continue" in answer.stderr
    assert "< HTTP/1.1 100 Continue" in answer.stderr
    assert "Done waiting for 100-continue" not in answer.stderr
    said = spoken(answer.stdout) if streamed else answer.stdout
    assert mark in said
    [prompt] = provider.prompts(mark)
    assert json.loads(prompt["body"])["messages"][0]["content"] == parts


def test_a_large_body_that_will_not_be_taken_is_refused_before_it_is_sent(
    house: House, curl: Curl, tmp_path: Path
) -> None:
    file = tmp_path / "body.json"
    file.write_bytes(b" " * 17_000_000)
    show = ("--json", f"@{file}", "-o", str(tmp_path / "answer"), "-w", "%{http_code} %{size_upload}")
    assert run(curl.command("chat/completions", *show)).stdout == "413 0"
    assert run(Curl(house, "sk-nonsense").command("chat/completions", *show)).stdout.startswith("413 ")
    file.write_bytes(b" " * 5_000_000)
    assert run(Curl(house, "sk-nonsense").command("chat/completions", *show)).stdout == "401 0"


@pytest.mark.parametrize("streamed", [False, True])
def test_the_first_version_of_http_is_spoken_too(curl: Curl, mark: str, *, streamed: bool) -> None:
    answer = curl.chat(mark, "--http1.0", "-i", stream=streamed)
    assert answer.returncode == 0
    head, _, body = answer.stdout.partition("\n\n")
    assert re.search("^connection: close$", head, re.IGNORECASE | re.MULTILINE)
    assert mark in (spoken(body) if streamed else body)


def test_an_answer_is_asked_for_again_when_the_provider_is_full(curl: Curl, provider: Provider, mark: str) -> None:
    """C19."""
    provider.fail("model_error", mark)
    started = time.monotonic()
    answer = curl.chat(mark, "--retry", "2", "--fail")
    assert answer.returncode == 0, answer.stderr
    assert mark in answer.stdout
    assert time.monotonic() - started >= 5
    assert len(provider.prompts(mark)) == 2


def test_a_stream_that_breaks_off_says_so_in_its_last_event(curl: Curl, provider: Provider, mark: str) -> None:
    """C34: the status went out long ago, so that the exit status is 0 all the same."""
    provider.fail("truncate", mark, at=3)
    answer = curl.chat(mark, "-N", "--fail", stream=True)
    assert answer.returncode == 0
    *_, error, done = [event for event in answer.stdout.split("\n\n") if event]
    assert json.loads(error.removeprefix("data: "))["error"]["code"] == "stream_truncated"
    assert done == "data: [DONE]"


def test_a_curl_that_gives_up_or_is_ended_cancels_its_stream(curl: Curl, provider: Provider, mark: str) -> None:
    """C33."""
    provider.fail("pace", mark, count=None, seconds=0.25)
    given_up = curl.chat(mark, "-N", "--max-time", "1.5", stream=True)
    assert given_up.returncode == TIMED_OUT
    assert mark in spoken(given_up.stdout) or given_up.stdout.startswith("data: ")
    provider.until_free(mark, seconds=1.0)
    with running(curl.arguments(mark, "-N", stream=True)) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        provider.until_running(mark)
    provider.until_free(mark, seconds=1.0)
    assert curl.chat("next", "--fail").returncode == 0


def test_models_are_public_and_unchanged_ones_are_not_sent_again(house: House, tmp_path: Path) -> None:
    tag = ["--etag-save", str(tmp_path / "tag"), "--etag-compare", str(tmp_path / "tag")]
    ask = ["curl", "-sS", "-w", "%{stderr}%{http_code}", *tag, f"{house.stack.base_url}/models"]
    first, second = run(ask), run(ask)
    assert house.llm in {model["id"] for model in json.loads(first.stdout)["data"]}
    assert (first.stderr, second.stderr, second.stdout) == ("200", "304", "")
    assert run(["curl", "-sSI", f"{house.stack.base_url}/models/"]).stdout.startswith("HTTP/1.1 200")
