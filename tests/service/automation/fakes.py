"""The sessions service as automation sees it."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from morpheus_common.bus.names import User
from morpheus_common.bus.rpc import error_envelope
from morpheus_common.clock import utc_now
from morpheus_common.contracts.base import Message, Rpc
from morpheus_common.contracts.renewal import (
    GET_OPEN_FACTS,
    LIST_ENDING,
    RENEW_SESSION,
    EndingSession,
    EndingSessions,
    GetOpenFacts,
    ListEnding,
    OpenFacts,
    Renewal,
    RenewalProgress,
    RenewSession,
)
from morpheus_common.errors import ApiError
from nats.aio.client import Client
from nats.aio.msg import Msg

MODEL = "0x" + "ab" * 32
PLENTY = 10**30
A_SECOND = 10**15


def plenty(**more: Any) -> OpenFacts:
    """Facts that bound nothing."""
    known: dict[str, Any] = {
        "price_per_second": 10**13,
        "stake_per_second": A_SECOND,
        "stake_extra": 0,
        "user_limit": PLENTY,
        "user_at_risk": 0,
        "in_all_room": PLENTY,
        "wallet_room": PLENTY,
        "shortest": 330,
        "longest": 3_600,
    }
    return OpenFacts(**known | more)


def near_end(number: int = 1, **more: Any) -> EndingSession:
    """A session in use that is near its end."""
    known: dict[str, Any] = {
        "id": f"session-{number}",
        "session_id": f"0x{number:064x}",
        "user_id": "user-ada",
        "key_id": f"key-{number}",
        "key_prefix": "sk-abc",
        "model_id": MODEL,
        "ends_at": utc_now() + timedelta(seconds=100 + number),
        "left": 100.0,
        "duration": 3_600.0,
        "idle": 1.0,
        "coming": False,
    }
    return EndingSession(**known | more)


@dataclass
class FakeSessions:
    """Tells what it is told to tell. `asked`: the renewals it was asked for; `answer` says what came of one."""

    connection: Client
    facts: OpenFacts | None = field(default_factory=plenty)
    rows: list[EndingSession] = field(default_factory=list)
    asked: list[RenewSession] = field(default_factory=list)
    pages: int = 0
    facts_asked: int = 0
    answer: Callable[[RenewSession], Renewal] = field(
        default=lambda command: Renewal(progress=RenewalProgress.RUNNING, operation_id=command.operation_id)
    )

    async def start(self) -> None:
        await self._answer(GET_OPEN_FACTS, self._facts)
        await self._answer(LIST_ENDING, self._ending)
        await self._answer(RENEW_SESSION, self._renew)

    async def _answer(self, rpc: Rpc[Any, Any], handler: Callable[[Any], Awaitable[Message]]) -> None:
        async def answer(msg: Msg) -> None:
            try:
                envelope: dict[str, Any] = {
                    "ok": (await handler(rpc.question.model_validate_json(msg.data))).model_dump(mode="json")
                }
            except ApiError as error:
                envelope = error_envelope(error)
            await msg.respond(json.dumps(envelope).encode())

        await self.connection.subscribe(rpc.subject, queue=User.SESSIONS, cb=answer)

    async def _facts(self, _: GetOpenFacts) -> OpenFacts:
        self.facts_asked += 1
        if self.facts is None:
            raise ApiError("service_unavailable")
        return self.facts

    async def _ending(self, question: ListEnding) -> EndingSessions:
        self.pages += 1
        rows = sorted(self.rows, key=lambda row: (row.ends_at, row.id))
        if question.after is not None:
            after = (question.after.ends_at, question.after.id)
            rows = [row for row in rows if (row.ends_at, row.id) > after]
        return EndingSessions(sessions=rows[: question.limit], more=len(rows) > question.limit)

    async def _renew(self, command: RenewSession) -> Renewal:
        self.asked.append(command)
        return self.answer(command)
