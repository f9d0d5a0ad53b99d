"""What automation asks of sessions: what comes to its end, what a session would take, and to renew one.

Times are durations by the database's clock: nobody compares clocks of workers.
"""

from enum import StrEnum

from pydantic import Field

from morpheus_common.bus.names import User
from morpheus_common.contracts.base import REGISTRY, ChainId, Message, UtcTime, Wei
from morpheus_common.contracts.sessions import AutomationWord, Failure

AUTOMATION_ONLY = frozenset({User.AUTOMATION})
PAGE_ROWS = 100
"""Sessions of a page at most; a row is smaller than 1 kB."""


class EndingAfter(Message):
    """Where a page ended: the session (our own id) and its end."""

    ends_at: UtcTime
    id: str


class ListEnding(Message):
    """Ask for keys' current sessions that have less left than `share` of their time or `least` seconds, whichever is more;
    those that end first come first. `after`: the last of the page before.
    """

    share: float = Field(ge=0, le=1)
    least: float = Field(ge=0, le=86_400)
    limit: int = Field(PAGE_ROWS, ge=1, le=PAGE_ROWS)
    after: EndingAfter | None = None


class EndingSession(Message):
    """A key's current session near its end. `id` is our own. `left` and `duration` (of all of it) in seconds; `idle`: since
    its last prompt ended, 0 while one runs, None if there was none. `coming`: its successor is being opened.
    """

    id: str
    session_id: ChainId
    user_id: str
    key_id: str
    key_prefix: str
    model_id: ChainId
    ends_at: UtcTime
    left: float
    duration: float
    idle: float | None
    coming: bool


class EndingSessions(Message):
    """A page. `more`: ask again after the last one."""

    sessions: list[EndingSession]
    more: bool


class GetOpenFacts(Message):
    """Ask what bounds a session of a user for a model."""

    user_id: str
    model_id: ChainId


class OpenFacts(Message):
    """What bounds a session, amounts in wei, at the cheapest bid.

    A session of d seconds takes at most `d * stake_per_second + stake_extra`. `user_at_risk` of `user_limit` is in use;
    `in_all_room` is what all users together may still put at risk, `wallet_room` what the wallet with the most can take.
    `shortest` and `longest` in seconds: the least that the chain is asked for, and the most that automation may ask for.
    `frees_at`: when the user's limit leaves room for the shortest, None if it does or nobody knows.
    """

    price_per_second: Wei
    stake_per_second: Wei
    stake_extra: Wei
    user_limit: Wei
    user_at_risk: Wei
    in_all_room: Wei
    wallet_room: Wei
    shortest: int
    longest: int
    frees_at: UtcTime | None = None


class RenewSession(Message):
    """Open a successor of a key's current session `session` (our own id), for `duration` seconds, into `next`.

    It takes the place of the current one once it is on chain, and the old one is parked. `operation_id` is the same on
    every repeat: a repeat tells how that open stands. `word`: the decision.
    """

    operation_id: str
    session: str
    user_id: str
    key_id: str
    key_prefix: str
    model_id: ChainId
    duration: int = Field(ge=300)
    word: AutomationWord


class RenewalProgress(StrEnum):
    """`running`: a successor is being opened. `renewed`: it is on chain. `failed`: it came to nothing. `not_current`: the
    session is not its key's current one any more; nothing was opened for this command.
    """

    RUNNING = "running"
    RENEWED = "renewed"
    FAILED = "failed"
    NOT_CURRENT = "not_current"


class Renewal(Message):
    """How a renewal stands. `operation_id` is the one that was asked for, or another's that serves the same end."""

    progress: RenewalProgress
    operation_id: str
    error: Failure | None = None


LIST_ENDING = REGISTRY.rpc(User.SESSIONS, "list_ending", ListEnding, EndingSessions, callers=AUTOMATION_ONLY)
# automation asks while a prompt waits
GET_OPEN_FACTS = REGISTRY.rpc(
    User.SESSIONS, "get_open_facts", GetOpenFacts, OpenFacts, callers=AUTOMATION_ONLY, timeout=1.5
)
RENEW_SESSION = REGISTRY.rpc(User.SESSIONS, "renew", RenewSession, Renewal, callers=AUTOMATION_ONLY)
