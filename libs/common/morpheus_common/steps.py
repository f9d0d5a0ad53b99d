"""The steps of a prompt, of opening and closing a session, and of deleting an account, between which a process may die, sleep
or be cut off.

The code names each of them where it passes it: `await reached(Step.…)`. In production that does nothing. Sweeps walk
through this enumeration, so a new step is swept because it is here: `SESSION_STEPS` by tests/faults and
tests/state_machine, `DELETION_STEPS` and `RENEWAL_STEPS` by the tests of the services that pass them.
"""

import asyncio
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Final

from morpheus_common.logs import get_logger

log = get_logger(__name__)


class Step(StrEnum):
    """A place in our code. `O` steps belong to an open, `K` steps to a close, `D` steps to the deletion of an account, `R`
    steps to what automation does for a renewal, `P` steps to a prompt; the value is the name in the tables.
    """

    OPEN_NAMED = "O1 operation named, nothing published"
    OPEN_RECEIVED = "O2 command received, no reply"
    OPEN_DECIDED = "O3 before the insert"
    OPEN_INSERTED = "O4 inserted, answer lost"
    OPEN_QUEUED = "O5 queued, loop not nudged"
    OPEN_TAKEN = "O6 taken by the loop"
    HANDSHAKE_SENDING = "O7 handshake about to be sent"
    HANDSHAKE_DONE = "O8 approval received, not stored"
    OPEN_RECORDED = "O9 approval and stake stored, not sent"
    OPEN_SENDING = "O10 lease checked, bytes not out"
    OPEN_ANSWERED = "O16 answer read, fact not written"
    OPEN_NOTED = "O17 fact written, not settled"
    OPEN_SETTLING = "O19 in the settling transaction"
    OPEN_SETTLED = "O20 settled, event not published"
    EVENT_PUBLISHED = "O21 event published, not marked"
    OPEN_REPLYING = "O22 done, no reply to the caller"
    OPEN_LISTED = "O23 looked for on chain, not sent again"
    OPEN_SENT_AGAIN = "O24 sent again, not adopted"
    OPEN_ADOPTING = "O25 found on chain, about to adopt"
    OPEN_ABANDONED = "O26 given up"
    SESSION_MOVING = "O31 in the transaction that gives sessions their new ids"
    CLOSE_TRIGGERED = "K1 trigger read, nothing written"
    CLOSE_INSERTED = "K2 closing written, answer lost"
    CLOSE_RELEASED = "K3 no prompt runs any more"
    CLOSE_TAKEN = "K4 taken by the loop"
    CLOSE_SENDING = "K5 bytes not out"
    CLOSE_ANSWERED = "K9 answer read, not recorded"
    CLOSE_LISTED = "K10 chain read after the close"
    CLOSE_SETTLING = "K13 in the settling transaction"
    CLOSE_SETTLED = "K14 settled, event not published"
    CLOSE_REPLYING = "K15 no reply to the caller"
    DELETION_RECEIVED = "D1 command received, nothing written"
    CREDENTIALS_ENDING = "D2 in the transaction that ends the credentials"
    CREDENTIALS_ENDED = "D3 credentials dead, answer lost"
    DELETION_TAKEN = "D4 taken by the driver"
    USER_CLOSING = "D5 sessions: the user's end written, no close asked for"
    USER_CLOSES_ASKED = "D6 sessions: closes asked for, no answer"
    USER_CLOSED = "D7 nothing is open on chain, nothing erased"
    SESSIONS_ERASING = "D8 sessions: in the erasing transaction"
    SESSIONS_ERASED = "D9 sessions: erased, count not returned"
    SETTINGS_ERASING = "D10 automation: in the erasing transaction"
    SETTINGS_ERASED = "D11 automation: erased, count not returned"
    PART_ANSWERED = "D12 a service's count returned, not stored"
    PART_NOTED = "D13 a service's count stored, the next not asked"
    ACCOUNT_ERASING = "D14 in the transaction that erases what auth has"
    ACCOUNT_ERASED = "D15 complete, event not published"
    DELETION_REPLYING = "D16 no reply to the caller"
    RENEWAL_WRITING = "R1 in the transaction that writes a renewal"
    RENEWAL_WRITTEN = "R2 renewal written, sessions not asked"
    RENEWAL_ASKED = "R3 sessions asked, answer not kept"
    PROMPT_RECEIVED = "P1 prompt received, not accepted"
    PROMPT_ACCEPTED = "P2 accept sent, no credit"
    PROMPT_CREDITED = "P3 credit given, router not called"
    PROMPT_ENDED = "P6 end seen, session not freed"

    @property
    def number(self) -> str:
        """The short name: `O9`."""
        return self.value.partition(" ")[0]


SESSION_STEPS: Final = tuple(step for step in Step if step.number[0] in "OK")
"""What an open or a close passes."""
DELETION_STEPS: Final = tuple(step for step in Step if step.number[0] == "D")
"""What the deletion of an account passes."""
RENEWAL_STEPS: Final = tuple(step for step in Step if step.number[0] == "R")
"""What automation passes when it renews a session."""
PROMPT_STEPS: Final = tuple(step for step in Step if step.number[0] == "P")
"""What a prompt passes in its worker; between them lie its moments at the router."""

Probe = Callable[[Step, str], Awaitable[None]]
"""What is awaited at a step, with the id of the operation, session or key it belongs to ('' where there is none)."""

ANSWER_SECONDS: Final = 600.0
"""A sweep holds a process at a step for no longer."""

_probe: Probe | None = None


def install(probe: Probe | None) -> None:
    """Have `probe` awaited at each step from now on; None for nothing. For tests."""
    global _probe  # noqa: PLW0603 - one process, one probe
    _probe = probe


async def reached(step: Step, subject: str = "") -> None:
    """Say that `step` was reached for `subject` (the id of an operation, a session or, for a prompt, its key)."""
    if _probe is not None:
        await _probe(step, subject)


class SocketProbe:
    """Tells a controller behind a Unix socket of each step and waits for its word to go on.

    One connection a step: the line `<number> <worker> <subject>`, answered by any line or the end of the connection.
    A controller that is away stops nothing.
    """

    def __init__(self, path: str, worker: str) -> None:
        self._path = path
        self._worker = worker

    async def __call__(self, step: Step, subject: str) -> None:
        """Wait until the controller lets us go on."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                reader, writer = await asyncio.open_unix_connection(self._path)
                try:
                    writer.write(f"{step.number} {self._worker} {subject}\n".encode())
                    await reader.readline()
                finally:
                    writer.close()
        except (OSError, TimeoutError) as error:
            log.warning("nobody listens at the step probe", step=step.number, problem=type(error).__name__)
