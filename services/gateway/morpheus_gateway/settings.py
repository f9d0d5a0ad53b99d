"""Settings of the gateway."""

from morpheus_common.settings import CommonSettings
from pydantic import Field


class GatewaySettings(CommonSettings):
    """Settings of a gateway process, from the environment (names in upper case). Times in seconds, sizes in bytes."""

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65_535, description="port to listen on; 0 takes a free one and logs it")
    body_limit: int = Field(16 * 1024 * 1024, gt=0, description="largest body of a prompt, in bytes")
    token_issuer: str = Field("morpheus-auth", description="`iss` that access tokens must carry")
    token_audience: str = Field("morpheus-gateway", description="`aud` that access tokens must carry")
    public_cors_origins: tuple[str, ...] = Field(
        ("*",), description='browser origins that may call models and chat, as JSON; ["*"] is any'
    )
    cors_origins: tuple[str, ...] = Field((), description="browser origins that may call all other routes, as JSON")
    open_wait: float = Field(100.0, gt=0, le=300, description="wait for a session to open, then 504 session_pending")
    close_wait: float = Field(30.0, gt=0, le=300, description="wait for a session to close, then 202")
    json_open_wait: float = Field(
        45.0, gt=0, le=300, description="wait of a chat in JSON mode for its session, then 503 session_opening"
    )
    stream_commit: float = Field(20.0, gt=0, description="a stream's status goes out after this, whatever has come")
    keep_alive: float = Field(15.0, gt=0, description="silence in a committed stream before a comment is sent")
    slow_client: float = Field(60.0, gt=0, description="a client that takes no byte for so long is cut off")
    session_duration: int = Field(3_600, ge=300, description="duration of a session that names none")
    session_duration_limit: int = Field(86_400, ge=300, description="longest session a user may ask for")
    pings_per_minute: int = Field(6, ge=1, description="pings of one API key in a minute, per gateway")
    json_answer_limit: int = Field(64 * 1024 * 1024, gt=0, description="largest answer in JSON mode")
