"""What automation stores."""

from datetime import datetime
from typing import ClassVar

from beanie import Document
from morpheus_common.store.outbox import OutboxRow
from morpheus_common.store.user_guards import UserGuardDocument
from pymongo import IndexModel


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


DOCUMENTS: tuple[type[Document], ...] = (AutomationSettingsDocument, UserGuardDocument, OutboxRow)
"""Everything stored, for `morpheus apply` and for the start."""
