"""Settings of the gateway."""

from urllib.parse import urlsplit

from morpheus_common.bus.frames import SILENCE_SECONDS
from morpheus_common.settings import CommonSettings
from pydantic import Field, IPvAnyNetwork, SecretStr, field_validator

_STORE_SCHEMES = ("redis://", "rediss://", "valkey://", "valkeys://")


class GatewaySettings(CommonSettings):
    """Settings of a gateway process, from the environment (names in upper case). Times in seconds, sizes in bytes."""

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65_535, description="port to listen on; 0 takes a free one and logs it")
    body_limit: int = Field(16 * 1024 * 1024, gt=0, description="largest body of a prompt, in bytes")
    body_memory: int = Field(
        512 * 1024 * 1024,
        gt=0,
        description="all bodies over 64 KiB that are not answered yet, in bytes; one address has half; more are told 503",
    )
    header_timeout: float = Field(
        10.0,
        gt=0,
        description="a request's headers have to be there after so long, from the connection's begin or their first byte",
    )
    body_grace: float = Field(
        30.0,
        gt=0,
        description="a request's body has to be there after so long, and a second more for each `body_rate` bytes",
    )
    body_rate: int = Field(8_192, gt=0, description="slowest body that is taken, in bytes a second")
    connection_limit: int = Field(4_096, ge=1, description="open connections in all; more are told 503 and closed")
    connections_per_address: int = Field(
        256, ge=1, description="open connections of one address that is no trusted proxy; more are told 429 and closed"
    )
    token_issuer: str = Field("morpheus-auth", description="`iss` that access tokens must carry")
    token_audience: str = Field("morpheus-gateway", description="`aud` that access tokens must carry")
    public_cors_origins: tuple[str, ...] = Field(
        ("*",), description='browser origins that may call models and chat, as JSON; ["*"] is any'
    )
    cors_origins: tuple[str, ...] = Field((), description="browser origins that may call all other routes, as JSON")
    open_wait: float = Field(100.0, gt=0, le=300, description="wait for a session to open, then 504 session_pending")
    close_wait: float = Field(30.0, gt=0, le=300, description="wait for a session to close, then 202")
    deletion_wait: float = Field(20.0, gt=0, le=300, description="wait for an account to be deleted, then 202")
    json_open_wait: float = Field(
        45.0, gt=0, le=300, description="wait of a chat in JSON mode for its session, then 503 session_opening"
    )
    stream_commit: float = Field(20.0, gt=0, description="a stream's status goes out after this, whatever has come")
    keep_alive: float = Field(15.0, gt=0, description="silence in a committed stream before a comment is sent")
    slow_client: float = Field(60.0, gt=0, description="a client that takes no byte for so long is cut off")
    relay_silence: float = Field(
        SILENCE_SECONDS,
        gt=0,
        description="a worker not heard of for so long is lost; the same for gateways and workers",
    )
    drain_notice: float = Field(
        5.0, ge=0, description="/ready fails for so long before a gateway that was told to go refuses connections"
    )
    session_duration: int = Field(3_600, ge=300, description="duration of a session that names none")
    session_duration_limit: int = Field(86_400, ge=300, description="longest session a user may ask for")
    trusted_proxies: tuple[IPvAnyNetwork, ...] = Field(
        (), description='networks whose X-Forwarded-For and -Proto are believed, as JSON: ["10.0.0.0/8"]'
    )
    trust_traceparent: bool = Field(
        False,
        description="a request's traceparent that comes from a trusted proxy is continued, its sampling included: only for "
        "proxies that make it themselves and let no client's through",
    )
    limits_url: SecretStr | None = Field(
        None,
        description="Redis or Valkey in which several gateways count together (redis://, valkey://; with TLS rediss://, "
        "valkeys://); none: each for itself",
    )
    chats_per_minute: int = Field(60, ge=1, description="prompts (chat and embeddings) of one API key in a minute")
    public_gets_per_minute: int = Field(
        600, ge=1, description="GETs from one address in a minute of what needs no credential; health is never limited"
    )
    registrations_per_hour: int = Field(5, ge=1, description="registrations from one address in an hour")
    registrations_per_day: int = Field(20, ge=1, description="registrations from one address in a day")
    failed_logins_per_ten_minutes: int = Field(10, ge=1, description="failed logins from one address in 10 minutes")
    refreshes_per_minute: int = Field(60, ge=1, description="token refreshes from one address in a minute")
    refused_credentials_per_minute: int = Field(
        60, ge=1, description="wrong API keys and access tokens from one address in a minute"
    )
    pings_per_minute: int = Field(6, ge=1, description="pings of one API key in a minute")
    docs_try_it: bool = Field(
        True, description="the API reference in the documentation has a console that sends requests"
    )
    json_answer_limit: int = Field(64 * 1024 * 1024, gt=0, description="largest answer in JSON mode")

    @field_validator("limits_url")
    @classmethod
    def _is_usable(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        url = value.get_secret_value()
        if not url.startswith(_STORE_SCHEMES):
            raise ValueError(f"LIMITS_URL begins with one of {', '.join(_STORE_SCHEMES)}")
        try:
            _ = urlsplit(url).port
        except ValueError:
            # its message quotes what stands there, which can be a password
            raise ValueError("LIMITS_URL is no URL: write it as valkey://user:password@host:port") from None
        return value
