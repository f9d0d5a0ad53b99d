"""Sessions and automation as the deletion of an account sees them: each command repeatable, with counts that stay."""

import json
from dataclasses import dataclass, field
from typing import Any

from morpheus_common.bus.names import User
from morpheus_common.contracts.base import Message, Rpc
from morpheus_common.contracts.deletion import (
    CLOSE_USER,
    ERASE_USER_SESSIONS,
    ERASE_USER_SETTINGS,
    UserClosing,
    UserErased,
)
from nats.aio.client import Client
from nats.aio.msg import Msg

from tests.servers import NatsAccount


@dataclass
class Neighbours:
    """`open`: what sessions answers, one after the other, before nothing is open any more. `early`: so often it refuses to
    erase although nothing seemed open. `asked`: verbs in the order they came, of which user.
    """

    sessions: int = 3
    settings: int = 1
    open: list[int] = field(default_factory=list)
    early: int = 0
    asked: list[tuple[str, str]] = field(default_factory=list)
    _connections: list[Client] = field(default_factory=list)

    async def come(self, account: NatsAccount) -> None:
        """Answer from now on."""
        for user, rpc in (
            (User.SESSIONS, CLOSE_USER),
            (User.SESSIONS, ERASE_USER_SESSIONS),
            (User.AUTOMATION, ERASE_USER_SETTINGS),
        ):
            connection = await account.connect(user)
            self._connections.append(connection)
            await connection.subscribe(rpc.subject, queue=user, cb=self._answering(rpc))
            await connection.flush()

    async def leave(self) -> None:
        """Be away."""
        while self._connections:
            await self._connections.pop().close()

    def verbs(self, user_id: str) -> list[str]:
        """What was asked of a user, each once, in the order of the first time."""
        return list(dict.fromkeys(verb for verb, of_user in self.asked if of_user == user_id))

    def _answering(self, rpc: Rpc[Any, Any]) -> Any:
        async def respond(msg: Msg) -> None:
            user_id = rpc.question.model_validate_json(msg.data).user_id
            self.asked.append((f"{rpc.service}.{rpc.verb}", user_id))
            await msg.respond(json.dumps({"ok": self._answer(rpc).model_dump(mode="json")}).encode())

        return respond

    def _answer(self, rpc: Rpc[Any, Any]) -> Message:
        if rpc is CLOSE_USER:
            return UserClosing(open=self.open.pop(0) if self.open else 0)
        if rpc is ERASE_USER_SETTINGS:
            return UserErased(count=self.settings)
        if self.early:
            self.early -= 1
            return UserErased(count=None)
        return UserErased(count=self.sessions)
