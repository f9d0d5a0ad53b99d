"""How each worker says that it is there and what it lacks."""

from morpheus_common.bus.names import User
from morpheus_common.contracts.base import GATEWAY_ONLY, REGISTRY, Empty, Message


class Health(Message):
    """State of one worker. `components` maps what it depends on to whether that works (`database`, `proxy_router`)."""

    version: str
    worker: str
    components: dict[str, bool]


PING = {
    service: REGISTRY.rpc(service, "ping", Empty, Health, callers=GATEWAY_ONLY, timeout=1.0)
    for service in (User.AUTH, User.SESSIONS, User.AUTOMATION)
}
