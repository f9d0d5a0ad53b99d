"""Is it well, is it up, may it get traffic."""

from typing import Any

from fastapi import APIRouter, Request, Response

from morpheus_gateway.context import Context
from morpheus_gateway.health import Health

router = APIRouter(tags=["health"])


@router.get("/health")
async def health_check(request: Request, response: Response) -> dict[str, Any]:
    """State of every component, at most 2 s old. 503 when the gateway cannot serve."""
    state: Health = request.app.state.health
    response.headers["Cache-Control"] = "no-cache"
    if not state.can_serve:
        response.status_code = 503
        response.headers["Retry-After"] = "1"
    return state.shown()


@router.get("/live")
async def liveness_check(response: Response) -> dict[str, str]:
    """The process is up. Losing a dependency does not change that."""
    response.headers["Cache-Control"] = "no-cache"
    return {"status": "alive"}


@router.get("/ready")
async def readiness_check(request: Request, response: Response) -> dict[str, str]:
    """200 when traffic may come: every service answers, the copies that requests are served from are there, and the gateway
    was not told to go.
    """
    state: Health = request.app.state.health
    context: Context | None = request.app.state.context
    response.headers["Cache-Control"] = "no-cache"
    loaded = context is not None and context.catalogue.loaded and context.public_keys.loaded
    if loaded and state.everyone_answers and not state.draining:
        return {"status": "ready"}
    response.status_code = 503
    response.headers["Retry-After"] = "1"
    return {"status": "not_ready"}
