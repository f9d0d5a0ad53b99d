"""The ASGI application: routes, what surrounds them, and its life from start to drain."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from itertools import chain

from fastapi import APIRouter, Depends, FastAPI
from fastapi.routing import APIRoute
from morpheus_common.bus.connection import make_broker, raw_connection
from morpheus_common.bus.frames import BEATS_A_SILENCE
from morpheus_common.bus.names import User
from morpheus_common.metrics import show
from morpheus_common.private_port import private_port
from morpheus_common.service import background, stop_broker, until_it_works
from morpheus_common.settings import Environment
from morpheus_common.standing import Standing
from morpheus_common.tracing import is_on
from nats.errors import Error as NatsError
from starlette.middleware import Middleware

import morpheus_gateway
from morpheus_gateway.body import sound_json
from morpheus_gateway.client_address import Network
from morpheus_gateway.context import Context
from morpheus_gateway.documentation import documentation
from morpheus_gateway.errors import install_error_handlers
from morpheus_gateway.health import Health
from morpheus_gateway.metrics import show_copies
from morpheus_gateway.middleware import (
    AddressLimits,
    BodyLimit,
    Cors,
    DirectRoutes,
    ErrorNet,
    HttpsOnly,
    Paths,
    RequestScope,
)
from morpheus_gateway.openapi import DESCRIPTION, NAME, served
from morpheus_gateway.query import no_query_parameter_twice
from morpheus_gateway.relay import RelayTimes
from morpheus_gateway.routes import DIRECT_ROUTERS, ROUTERS
from morpheus_gateway.settings import GatewaySettings
from morpheus_gateway.traces import Traces


def create_app(settings: GatewaySettings, *, relay_times: RelayTimes | None = None) -> FastAPI:
    """Return the application. `relay_times` is for tests that cannot wait as long as production does."""
    times = relay_times or RelayTimes(
        silence=settings.relay_silence,
        credit_repeat=settings.relay_silence / BEATS_A_SILENCE,
        slow_client=settings.slow_client,
    )
    standing = Standing()
    health = Health(standing)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        show(standing)
        with private_port(settings.metrics_host, settings.metrics_port, standing):
            async with background(standing.keep(), _hold_bus(app, settings, times)):
                yield

    app = FastAPI(
        title=NAME,
        description=DESCRIPTION,
        version=morpheus_gateway.__version__,
        openapi_url=None,
        redirect_slashes=False,
        strict_content_type=False,
        # none is configured, and it asks so with every request
        telemetry={"tracing": False, "metrics": False, "logs": False},
        lifespan=lifespan,
        dependencies=[Depends(no_query_parameter_twice), Depends(sound_json)],
        middleware=[
            Middleware(RequestScope),
            *([Middleware(Traces, trusted=_tracing_proxies(settings))] if is_on() else []),
            Middleware(Cors, public_origins=settings.public_cors_origins, origins=settings.cors_origins),
            Middleware(
                HttpsOnly,
                trusted=settings.trusted_proxies,
                enforced=settings.environment is Environment.PRODUCTION,
            ),
            Middleware(ErrorNet),
            Middleware(AddressLimits),
            Middleware(BodyLimit, limit=settings.body_limit, memory=settings.body_memory),
            Middleware(Paths),
            Middleware(DirectRoutes, routes=_routes_of(DIRECT_ROUTERS)),
        ],
    )
    app.state.context = None
    app.state.health = health
    app.state.standing = standing
    standing.need("models", lambda: app.state.context is not None and app.state.context.catalogue.loaded)
    standing.need("signing keys", lambda: app.state.context is not None and app.state.context.public_keys.loaded)
    app.state.document = served
    app.state.routes = _routes_of(ROUTERS)
    for router in ROUTERS:
        app.include_router(router)
    app.state.documentation = documentation()
    app.state.docs_try_it = settings.docs_try_it
    install_error_handlers(app)
    return app


def _tracing_proxies(settings: GatewaySettings) -> Iterable[Network]:
    return settings.trusted_proxies if settings.trust_traceparent else ()


def _routes_of(routers: Iterable[APIRouter]) -> list[APIRoute]:
    return [route for route in chain.from_iterable(router.routes for router in routers) if isinstance(route, APIRoute)]


async def _hold_bus(app: FastAPI, settings: GatewaySettings, times: RelayTimes) -> None:
    """Connect to the bus and stay connected (a background job): `/live` answers before the bus is there."""
    broker = make_broker(settings, User.GATEWAY)
    await until_it_works("bus", broker.connect, errors=(NatsError, OSError))
    try:
        connection = raw_connection(broker)
        context = Context.build(settings, connection, times)
        async with context.running(connection, app.state.health):
            app.state.context = context
            show_copies(context.catalogue, context.limits.shared)
            await asyncio.Event().wait()
    finally:
        app.state.context = None
        await stop_broker(broker, seconds=settings.drain_seconds)
