"""What automation stores."""

from datetime import datetime
from typing import ClassVar

from beanie import Document
from morpheus_common.contracts.automation import Decision, DecisionRow
from morpheus_common.ids import uuid7
from morpheus_common.store.migrations import Migration
from morpheus_common.store.outbox import OutboxRow
from morpheus_common.store.user_guards import UserGuardDocument
from pydantic import Field
from pymongo import ASCENDING, DESCENDING, IndexModel

DECISIONS_KEPT_SECONDS = 90 * 86_400
RENEWALS_KEPT_SECONDS = 2 * 86_400
"""No session is near its end for longer than a tenth of the seven days that the chain allows."""


class AutomationSettingsDocument(Document):
    """A user's settings, by the user's id. `version` 0 are the defaults, which nobody has been told of."""

    id: str  # type: ignore[assignment]  # Beanie types it as an ObjectId
    is_enabled: bool
    session_duration: int
    created_at: datetime
    updated_at: datetime
    version: int

    class Settings:
        """Where and how it is stored."""

        name = "automation_settings"
        indexes: ClassVar[list[IndexModel]] = []


class DecisionDocument(Document):
    """A decision about the sessions of a key; the fields are those of `DecisionRow`.

    `version` counts what events have told of it; how often it was repeated is told by none.
    """

    id: str = Field(default_factory=uuid7)  # type: ignore[assignment]  # Beanie types it as an ObjectId
    version: int = 1
    user_id: str
    key_id: str
    key_prefix: str
    model_id: str
    session_id: str | None = None
    decision: Decision
    reason: str
    duration: int | None = None
    shortened_by: str | None = None
    operation_id: str | None = None
    error: str | None = None
    times: int = 1
    facts: dict[str, str] = Field(default_factory=dict)
    at: datetime
    last_at: datetime

    class Settings:
        """Where and how it is stored."""

        name = "decisions"
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("user_id", ASCENDING), ("at", DESCENDING)], name="user_newest"),
            IndexModel([("key_id", ASCENDING), ("at", DESCENDING)], name="key_newest"),
            IndexModel([("at", ASCENDING)], name="expiry", expireAfterSeconds=DECISIONS_KEPT_SECONDS),
        ]

    def row(self) -> DecisionRow:
        """Return the decision as its user sees it."""
        return DecisionRow.model_validate(self.model_dump(exclude={"version", "user_id"}))


class RenewalDocument(Document):
    """How it stands with a session near its end, by the session's own id.

    `decision` and `reason` are the last, in the record `decision_id`. `operation_id`: the open that was decided and whose
    outcome is not known yet; whoever goes on names the same. `failures`: opens that came to nothing; `refusals`: what limits
    stood against; nothing is tried before `not_before` (database time).
    """

    id: str  # type: ignore[assignment]  # the session's own id
    user_id: str
    key_id: str
    decision: Decision
    reason: str
    decision_id: str
    operation_id: str | None = None
    duration: int | None = None
    failures: int = 0
    refusals: int = 0
    not_before: datetime | None = None
    at: datetime

    class Settings:
        """Where and how it is stored."""

        name = "renewals"
        indexes: ClassVar[list[IndexModel]] = [
            IndexModel([("user_id", ASCENDING)], name="user"),
            IndexModel([("at", ASCENDING)], name="expiry", expireAfterSeconds=RENEWALS_KEPT_SECONDS),
        ]


DOCUMENTS: tuple[type[Document], ...] = (
    AutomationSettingsDocument,
    DecisionDocument,
    RenewalDocument,
    UserGuardDocument,
    OutboxRow,
)
"""Everything stored, for `morpheus apply` and for the start."""

MIGRATIONS: tuple[Migration, ...] = ()
"""What `morpheus apply` does to documents that are stored already, in order. A name stays here for as long as a version."""
