"""Is it well, is it up, may it get traffic."""

from typing import Literal

from fastapi import APIRouter, Request, Response
from morpheus_common.contracts.base import UtcTime
from morpheus_common.standing import Standing
from pydantic import BaseModel

from morpheus_gateway.health import Health

router = APIRouter(tags=["health"])


class ComponentShown(BaseModel):
    """One part. `degraded`: it works, and some of it does not. `latency_ms` is null where nobody was asked or answered."""

    status: Literal["healthy", "degraded", "unhealthy"]
    latency_ms: float | None


class ComponentsShown(BaseModel):
    """Every part that the gateway needs, or can do without for a while."""

    database: ComponentShown
    bus: ComponentShown
    auth: ComponentShown
    sessions: ComponentShown
    automation: ComponentShown
    proxy_router: ComponentShown


class HealthShown(BaseModel):
    """`degraded`: something does not work, and the gateway serves all the same. `timestamp`: when the parts were asked."""

    status: Literal["ok", "degraded", "unavailable"]
    version: str
    timestamp: UtcTime
    database: Literal["healthy", "degraded", "unhealthy"]
    components: ComponentsShown


class Alive(BaseModel):
    """The process answers."""

    status: Literal["alive"] = "alive"


class Readiness(BaseModel):
    """Whether traffic may come."""

    status: Literal["ready", "not_ready"]


@router.get(
    "/health", responses={503: {"model": HealthShown, "description": "The gateway cannot serve: `unavailable`."}}
)
async def health_check(request: Request, response: Response) -> HealthShown:
    """State of every component, at most 2 s old. 503 when the gateway cannot serve."""
    state: Health = request.app.state.health
    response.headers["Cache-Control"] = "no-cache"
    if not state.can_serve:
        response.status_code = 503
        response.headers["Retry-After"] = "1"
    return HealthShown.model_validate(state.shown())


@router.get("/live")
async def liveness_check(response: Response) -> Alive:
    """The process is up. Losing a dependency does not change that."""
    response.headers["Cache-Control"] = "no-cache"
    return Alive()


@router.get("/ready", responses={503: {"model": Readiness, "description": "No traffic should come now: `not_ready`."}})
async def readiness_check(request: Request, response: Response) -> Readiness:
    """200 when traffic may come: all answer that no request can do without, the copies that requests are served from are there,
    and the gateway was not told to go.
    """
    standing: Standing = request.app.state.standing
    response.headers["Cache-Control"] = "no-cache"
    if not standing.missing:
        return Readiness(status="ready")
    response.status_code = 503
    response.headers["Retry-After"] = "1"
    return Readiness(status="not_ready")
