"""How each worker says that it is there and what it lacks."""

from pydantic import Field

from morpheus_common.bus.names import User
from morpheus_common.contracts.base import GATEWAY_ONLY, REGISTRY, Empty, Message


class Health(Message):
    """State of one worker. `components` maps what it depends on to whether that works (`database`, `proxy_router`),
    `degraded` names those that work in part: some of the routers are away.
    """

    version: str
    worker: str
    components: dict[str, bool]
    degraded: list[str] = Field(default_factory=list)


PING = {
    service: REGISTRY.rpc(service, "ping", Empty, Health, callers=GATEWAY_ONLY, timeout=1.0)
    for service in (User.AUTH, User.SESSIONS, User.AUTOMATION)
}
