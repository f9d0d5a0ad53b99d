"""What a provider, or the router before it, can do to a prompt: every fault of the simulator that concerns prompts."""

from dataclasses import dataclass, field
from typing import Any

from tests.service.relay.house import CHUNKS

ROUTER_TEXTS = {
    "session expired": "provider request failed: provider error: session expired",
    "unreachable": "provider request failed: failed to connect to provider: dial tcp 10.77.0.11:3333: i/o timeout",
    "bad signature": "provider request failed: received invalid signature from provider",
    "attestation": "p-node tee attestation failed: quote of 10.77.0.11 does not fit",
    "timed out": "provider request failed: read timed out after 3 retries: read tcp 10.77.0.1:51000: i/o timeout",
    "reset": "provider request failed: invalid response: read tcp 10.77.0.11:3333: connection reset by peer",
}
REFUSAL = {
    "error": {
        "message": "too long, see https://provider.example/limits",
        "type": "invalid_request_error",
        "param": "messages",
        "code": "context_length_exceeded",
    }
}


WITHOUT_USAGE = "stream without usage"
MODES: dict[str, dict[str, Any]] = {
    "stream": {"stream": True, "stream_options": {"include_usage": True}},
    WITHOUT_USAGE: {"stream": True},
    "JSON": {"stream": False},
}


@dataclass(frozen=True)
class Fault:
    """One fault. `at`: after how many chunks it strikes, None for one that strikes the whole call."""

    name: str
    action: str
    at: tuple[int, ...] | None = tuple(range(CHUNKS + 1))
    params: dict[str, Any] = field(default_factory=dict)
    without_usage: bool = False
    """Whether streams whose usage nobody asked for are struck too."""
    is_silence: bool = False
    """Whether the worker has to lose its patience."""

    def cases(self) -> "list[Case]":
        """Return all of its cases."""
        modes = [mode for mode in MODES if mode != WITHOUT_USAGE or self.without_usage]
        return [Case(self, mode, at) for mode in modes for at in self.at or (None,)]


@dataclass(frozen=True)
class Case:
    """A fault that strikes a prompt of a mode after `at` chunks."""

    fault: Fault
    mode: str
    at: int | None

    @property
    def title(self) -> str:
        return self.mode if self.at is None else f"{self.mode}, struck after {self.at} chunks"

    @property
    def is_sample(self) -> bool:
        """Whether it is among those that every run of the tests has."""
        return self.at in ({None, 0} if self.mode == "JSON" else {None, 0, 2, 4})


FAULTS = (
    Fault("truncate", "truncate", without_usage=True),
    Fault("cut", "cut"),
    Fault("stall", "stall", is_silence=True),
    Fault("half utf8", "half_utf8"),
    Fault("invalid json", "invalid_json"),
    Fault("one byte", "one_byte"),
    Fault("control", "control"),
    *(Fault(name, "raw_error", params={"text": text}) for name, text in ROUTER_TEXTS.items()),
    Fault("refused", "model_error", params={"status": 400, "body": REFUSAL}),
    Fault("refused in words", "model_error", params={"body": "no such thing at http://10.77.0.11:8080/v1"}),
    Fault("overloaded", "model_error", params={"status": 429, "pass_status": True}),
    Fault("key of the provider", "model_error", params={"status": 401, "pass_status": True}),
    Fault("no done", "no_done", at=None, without_usage=True),
    Fault("no usage", "no_usage", at=None, without_usage=True),
    Fault("unstreamed", "unstreamed", at=None, without_usage=True),
    Fault("late", "delay", at=None, params={"seconds": 0.1}),
    Fault("dropped before", "drop", at=None),
    Fault("dropped after", "drop", at=None, params={"when": "after"}),
    Fault("failed before", "error_before", at=None),
    Fault("failed after", "error_after", at=None),
)
