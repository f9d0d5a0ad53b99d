"""A prompt's head and an owned session, for tests that care for a field or two of them."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from morpheus_common.contracts.chat import PromptHead
from morpheus_common.contracts.sessions import SessionState
from morpheus_sessions.names import Changes, Holder
from morpheus_sessions.ownership import OwnedSession


def prompt_head(**fields: Any) -> PromptHead:
    """A prompt for a stream."""
    known: dict[str, Any] = {
        "attempt": "a1",
        "gateway": "g1",
        "request_id": "r1",
        "user_id": "u1",
        "key_id": "k1",
        "key_prefix": "sk-abc",
        "stream": True,
        "body_bytes": 0,
        "open_wait": 30,
    }
    return PromptHead(**known | fields)


def owned_session() -> OwnedSession:
    """An active session of the key of `prompt_head`."""
    return OwnedSession(
        id="s1",
        key_id="k1",
        state=SessionState.ACTIVE,
        operation_id="o1",
        model_id="0x" + "2" * 64,
        model_name="served",
        chain_session="0x" + "3" * 64,
        provider="0xp",
        router="r1",
        usable_until=None,
        rests_until=0.0,
        used_at=0.0,
        claimed_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


class MemoryNames:
    """A book of names that lasts as long as the test."""

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.known: dict[str, Holder] = {}
        self._now = now

    async def read(self) -> dict[str, Holder]:
        return dict(self.known)

    async def write(self, changes: Changes) -> None:
        for name, holder in changes.taken.items():
            self.known.setdefault(name, holder)
        self.known |= {name: replace(holder, gone_at=self._now()) for name, holder in changes.gone.items()}
        self.known |= {name: replace(holder, gone_at=None) for name, holder in changes.back.items()}
