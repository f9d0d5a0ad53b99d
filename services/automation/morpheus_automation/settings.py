"""What can be configured. Environment variables, names in upper case."""

from morpheus_common.contracts.automation import MAX_DURATION_SECONDS, MIN_DURATION_SECONDS
from morpheus_common.settings import StoreSettings
from pydantic import Field


class AutomationServiceSettings(StoreSettings):
    """Settings of the automation service (not of a user: those are in `documents.py`)."""

    mongo_database: str = Field("automation", description="name of this service's database")
    default_session_duration: int = Field(
        3_600,
        ge=MIN_DURATION_SECONDS,
        le=MAX_DURATION_SECONDS,
        description="duration of an automatic session until its user says otherwise, in seconds",
    )
    renewal_seconds: float = Field(
        2.0, gt=0, le=30, description="how often sessions near their end are looked at, in seconds"
    )
