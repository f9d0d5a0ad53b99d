"""The endpoints, one module an area: read the request, ask, answer."""

from morpheus_gateway.routes import (
    account,
    api_keys,
    auth,
    automation,
    chat,
    delegations,
    deletion,
    docs,
    embeddings,
    health,
    models,
    private_key,
    rated_bids,
    root,
    session_ping,
    session_reads,
    session_spending,
    sessions,
    usage,
)

ROUTERS = (
    root.router,
    docs.router,
    health.router,
    auth.router,
    api_keys.router,
    account.router,
    private_key.router,
    delegations.router,
    deletion.router,
    rated_bids.router,
    models.router,
    sessions.router,
    session_reads.router,
    session_ping.router,
    session_spending.router,
    automation.router,
    usage.router,
    chat.router,
    embeddings.router,
)

DIRECT_ROUTERS = (models.router, chat.router, embeddings.router)
"""Those whose endpoints take the request and the context, and return the response: `DirectRoutes` calls them."""

__all__ = ["DIRECT_ROUTERS", "ROUTERS"]
