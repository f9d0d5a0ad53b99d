"""Settings of the sessions service."""

from typing import Annotated, Self

from morpheus_common.bus.frames import SILENCE_SECONDS
from morpheus_common.ids import CHAIN_ID_PATTERN
from morpheus_common.settings import Environment, StoreSettings, WorkerName
from pydantic import BaseModel, Field, Secret, SecretStr, StringConstraints, field_validator, model_validator

from morpheus_sessions.holds import HoldRule

StakeLimit = Annotated[str, StringConstraints(pattern=r"^([1-9][0-9]{0,33}|[0-9]{1,3}(\.[0-9]{1,3})?%)$")]
"""An amount in wei, or a share of what the wallets hold: `10%`."""

ModelId = Annotated[str, StringConstraints(pattern=CHAIN_ID_PATTERN, to_lower=True)]
"""A model's id on chain. Names are no settings: they can come to mean another model."""

STAKE_LIMITS = ("stake_limit_per_user", "stake_limit_in_all")
"""What production does not start without: how much of the operator's MOR may be at risk."""


class RouterSettings(BaseModel):
    """One proxy-router: its address and our Basic credentials. One router holds one wallet."""

    name: WorkerName
    url: str = Field(pattern=r"^https?://\S+$")
    user: str
    password: SecretStr


class RouterList(BaseModel):
    """The fleet, as JSON: `[{"name", "url", "user", "password"}]`."""

    routers: list[RouterSettings] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for what in ("name", "url"):
            values = [getattr(router, what) for router in self.routers]
            if len(set(values)) != len(values):
                msg = f"two routers have the same {what}"
                raise ValueError(msg)
        return self


class SessionsSettings(StoreSettings):
    """Settings of a session worker, from the environment (names in upper case). Times in seconds."""

    mongo_database: str = Field("sessions", description="name of this service's database")
    proxy_routers: Secret[str] = Field(
        description='the proxy-routers as JSON: [{"name": …, "url": …, "user": …, "password": …}]'
    )
    deployment_number: int = Field(
        1, ge=1, le=999, description="tells our stakes from those of other deployments on the same wallet"
    )
    catalogue_seconds: float = Field(
        30.0,
        gt=0,
        description="models and bids are read again after this; after nine times as long as reading took, if that is more",
    )
    pinned_models: dict[str, ModelId] = Field(
        default_factory=dict,
        description='which model a contested name means, as JSON: {"name": "0x…"}; without its model the name means none',
    )
    default_model: ModelId | None = Field(
        None,
        description="id of the model of a prompt that names none and whose key has no session; none: it is refused",
    )
    reconcile_seconds: float = Field(15.0, gt=0, description="how often our records are held beside the chain")
    handshake_timeout: float = Field(15.0, gt=0, description="limit of a provider's answer to a session request")
    chain_timeout: float = Field(240.0, gt=0, description="after this a chain call's outcome is unknown")
    router_read_timeout: float = Field(15.0, gt=0, description="limit of a reading call to the router")
    absence_spacing: float = Field(10.0, ge=0, description="time between two looks at the chain that count as absences")
    retry_seconds: float = Field(5.0, gt=0, description="first pause before an operation is carried on; it doubles")
    max_retry_seconds: float = Field(60.0, gt=0, description="longest pause before an operation is carried on")
    stuck_seconds: float = Field(900.0, gt=0, description="pause between two tries of a close that was never answered")
    abandon_after: float = Field(600.0, gt=0, description="an open not seen on chain for so long is given up")
    key_check_seconds: float = Field(60.0, gt=0, description="how often auth is asked about the keys of open sessions")
    left_behind_seconds: float = Field(
        60.0, gt=0, description="how often sessions on wallets whose router was taken out are looked at"
    )
    gauges_seconds: float = Field(
        15.0, gt=0, description="how often the figures of the whole deployment that metrics show are read"
    )
    own_close_after: float = Field(600.0, gt=0, description="we close an expired session ourselves after this")
    handshakes_at_once: int = Field(4, ge=1, description="session requests to providers in parallel, per wallet")
    least_gas: int = Field(
        10**14,
        ge=0,
        description="a wallet with less ETH than this, in wei, is given no opens: it could not pay for them",
    )
    send_traceparent: bool = Field(
        False,
        description="routers are told the trace of a call (traceparent); off, since routers can be other people's",
    )
    first_byte_timeout: float = Field(120.0, gt=0, description="limit of a provider's first byte")
    chunk_timeout: float = Field(90.0, gt=0, description="limit of the silence between two chunks")
    answer_timeout: float = Field(900.0, gt=0, description="limit of a whole answer")
    ping_timeout: float = Field(
        30.0, gt=0, description="a ping without an answer is asked again after this, and is dead after as long again"
    )
    relay_silence: float = Field(
        SILENCE_SECONDS,
        gt=0,
        description="a gateway not heard of for so long is lost; the same for gateways and workers",
    )
    queue_per_key: int = Field(32, ge=1, description="prompts of one key that may wait")
    queue_wait: float = Field(120.0, gt=0, description="how long a prompt may wait for its turn")
    quarantine: float = Field(600.0, gt=0, description="how long a session rests whose last prompt's end was not seen")
    idle_release: float = Field(300.0, gt=0, description="a session not used for so long is released by its worker")
    body_bytes_at_once: int = Field(256 * 1024 * 1024, gt=0, description="request bodies a worker holds, in bytes")
    answer_bytes: int = Field(32 * 1024 * 1024, gt=0, description="largest answer in JSON mode, in bytes")

    usage_days: int = Field(90, ge=1, le=3_650, description="days for which what each prompt used is kept")

    stake_limit_per_user: StakeLimit = Field(
        "10%", description="stake at risk of one user, in wei or as a share; to be set in production"
    )
    stake_limit_in_all: StakeLimit = Field(
        "90%", description="stake at risk of all users, in wei or as a share; to be set in production"
    )
    stake_limit_per_router: StakeLimit | None = Field(
        None, description="stake at risk on one router's wallet, in wei or as a share of it"
    )
    price_limit: int | None = Field(None, gt=0, description="no bid over this price is taken, in wei a second")
    duration_limit: int = Field(86_400, ge=300, le=604_800, description="longest session that a user may ask for")
    automatic_duration_limit: int = Field(
        3_600, ge=300, le=604_800, description="longest session that automation opens; longer ones are cut to this"
    )
    opens_per_minute: int = Field(6, ge=1, description="sessions that one user may open in a minute")
    opens_per_day: int = Field(60, ge=1, description="sessions that one user may open in 24 hours")
    diamond_contract_address: str | None = Field(
        None,
        pattern=r"^0x[0-9a-fA-F]{40}$",
        description="the contract that may take stakes; if it is not the router's own, nothing is approved",
    )
    approval_limit: int = Field(
        10**24, gt=0, le=10**33, description="no user can raise the allowance over this, in wei"
    )
    approves_per_minute: int = Field(6, ge=1, description="approvals that one user may ask for in a minute")
    allowance_stakes: int = Field(
        50, ge=0, le=10_000, description="so many usual stakes is the allowance kept over by itself; 0: it is not kept"
    )
    hold_rule: HoldRule = Field(
        HoldRule.WHOLE, description="what an early close leaves on hold: the whole stake, or the share that was used"
    )
    abandoned_at_risk: float = Field(
        3_600.0, ge=0, description="the stake of an open that was given up counts as at risk for so long"
    )

    @model_validator(mode="after")
    def _limits_are_chosen_in_production(self) -> Self:
        missing = [name.upper() for name in STAKE_LIMITS if name not in self.model_fields_set]
        if self.environment is Environment.PRODUCTION and missing:
            msg = f"set {' and '.join(missing)}, in wei or as a share of the wallets: production risks what you decide"
            raise ValueError(msg)
        return self

    @field_validator("proxy_routers")
    @classmethod
    def _readable(cls, value: Secret[str]) -> Secret[str]:
        RouterList.model_validate_json(f'{{"routers": {value.get_secret_value()}}}')
        return value

    def backoff(self, attempts: int) -> float:
        """Return the pause after so many attempts, in seconds."""
        return min(self.max_retry_seconds, self.retry_seconds * float(1 << min(attempts, 8)) / 2)

    @property
    def routers(self) -> list[RouterSettings]:
        """The proxy-routers."""
        return RouterList.model_validate_json(f'{{"routers": {self.proxy_routers.get_secret_value()}}}').routers
