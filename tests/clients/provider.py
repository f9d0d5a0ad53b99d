"""The provider behind a running stack, simulated: what came to it, and how it is to fail. Used by tests in any environment."""

import json
import time
from collections.abc import Callable
from typing import Any, Self

import httpx2


class Provider:
    """Tests say by a text of their own prompts which ones they mean, so that they can run beside each other."""

    def __init__(self, router_url: str) -> None:
        self._http = httpx2.Client(base_url=router_url, timeout=30)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def prepare(self) -> None:
        """Record prompts, and answer them as fast as tests like it."""
        self._http.post("/sim/prompts", json={"recorded": True}).raise_for_status()
        self._http.post("/sim/answers", json={"seconds": 0.1}).raise_for_status()

    def fail(self, action: str, mark: str, *, count: int | None = 1, **params: Any) -> None:
        """Have the next prompts with `mark` in them struck by a fault of the simulator, all of them if `count` is None."""
        fault = {"kind": "chat", "action": action, "count": count, "params": {"match": mark, **params}}
        self._http.post("/sim/faults", json=fault).raise_for_status()

    def relent(self) -> None:
        """Remove all faults; what hung in one goes on."""
        self._http.delete("/sim/faults").raise_for_status()

    def prompts(self, text: str) -> list[dict[str, Any]]:
        """The last prompts with `text` in them as they were recorded: headers, body, and whether they still run."""
        found: list[dict[str, Any]] = self._http.get("/sim/prompts", params={"match": text}).json()
        return found

    def bodies(self, text: str) -> list[dict[str, Any]]:
        """What they said."""
        return [json.loads(prompt["body"]) for prompt in self.prompts(text)]

    def until_running(self, text: str) -> None:
        """Wait until a prompt with `text` runs."""
        self._until(lambda: self._running(text) > 0, 10, "running prompt")

    def until_free(self, text: str, *, seconds: float) -> None:
        """Wait until the router works on none of them any more."""
        self._until(lambda: self._running(text) == 0, seconds, "end of the prompt")

    def _running(self, text: str) -> int:
        return sum(prompt["running"] for prompt in self.prompts(text))

    @staticmethod
    def _until(condition: Callable[[], bool], seconds: float, what: str) -> None:
        until = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < until, f"no {what} within {seconds} s"
            time.sleep(0.02)
