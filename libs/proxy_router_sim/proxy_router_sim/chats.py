"""The node's store of chats, and how the router falls over it (contract section 4, chat storage)."""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, Final

_MOST: Final = 100
"""The router keeps every chat for ever; this many are enough to test with."""


@dataclass(slots=True)
class Chat:
    """What was said under one chat id."""

    id: str
    model_id: str
    session_id: str
    title: str
    created_at: int
    """unix seconds"""
    messages: list[dict[str, Any]] = field(default_factory=list)


class Chats:
    """All chats, if ``storing``. The router stores by default; a gateway switches it off, and so does this one."""

    def __init__(self) -> None:
        self.storing = False
        self._chats: OrderedDict[str, Chat] = OrderedDict()

    def all(self) -> list[Chat]:
        return list(self._chats.values())

    def find(self, chat_id: str) -> Chat | None:
        return self._chats.get(chat_id)

    def delete(self, chat_id: str) -> None:
        """KeyError for an unknown id."""
        del self._chats[chat_id]

    def keep(self, chat: Chat, prompt: dict[str, Any], response: str, moments: tuple[int, int]) -> None:
        """Add a prompt with its answer, asked and answered at ``moments`` (unix seconds)."""
        kept = self._chats.setdefault(chat.id, chat)
        asked, answered = moments
        kept.messages.append({"prompt": prompt, "response": response, "promptAt": asked, "responseAt": answered})
        while len(self._chats) > _MOST:
            self._chats.popitem(last=False)
