"""What each process is told through its environment."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from morpheus_auth.settings import DEVELOPMENT_DELEGATE
from morpheus_common.bus.names import User

from morpheus_devstack.mongo_setup import STORES
from morpheus_devstack.ports import LOOPBACK
from morpheus_devstack.secrets import StackSecrets
from morpheus_devstack.servers import MongoServer, NatsServer

DRAIN_SECONDS = 10
"""How long a service finishes what it has begun. Shorter than in production: somebody waits for his prompt."""
OBSERVER = "observer"
SERVICES = (*STORES, User.GATEWAY)
"""All services, in the order in which they are started."""

DEVELOPMENT: Mapping[User, Mapping[str, str]] = {
    User.GATEWAY: {
        # all users of a development stack come from one address, and its tests are many users
        "REGISTRATIONS_PER_HOUR": "100000",
        "REGISTRATIONS_PER_DAY": "100000",
        "FAILED_LOGINS_PER_TEN_MINUTES": "1000",
        "REFRESHES_PER_MINUTE": "10000",
        "REFUSED_CREDENTIALS_PER_MINUTE": "10000",
        # the same of their connections
        "CONNECTIONS_PER_ADDRESS": "4096",
        "PUBLIC_GETS_PER_MINUTE": "100000",
        # and they send as many prompts as the machine can bear
        "CHATS_PER_MINUTE": "1000000",
        # no balancer stands before it
        "DRAIN_NOTICE": "0",
    },
    User.AUTH: {"DELEGATE_ADDRESS": DEVELOPMENT_DELEGATE},
}
"""What a stack on one machine needs otherwise than production does. The caller's environment changes it."""


@dataclass(frozen=True)
class Router:
    """A proxy-router and our credentials for it. `name` is what PROXY_ROUTERS calls it: it stands for a wallet for ever."""

    url: str
    user: str
    password: str
    name: str = "router"


@dataclass(frozen=True)
class Places:
    """Where the parts of a stack are, and the secrets that open them. `more_routers`: those besides the first.
    `metrics_ports`: the private port of each service that is to have one.
    """

    gateway_port: int
    nats: NatsServer
    mongo: MongoServer
    router: Router
    secrets: StackSecrets
    more_routers: tuple[Router, ...] = ()
    metrics_ports: Mapping[User, int] = field(default_factory=dict)

    @property
    def gateway_url(self) -> str:
        """The gateway's address, without a path."""
        return f"http://{LOOPBACK}:{self.gateway_port}"

    @property
    def base_url(self) -> str:
        """What an OpenAI client is given."""
        return f"{self.gateway_url}/api/v1"

    @property
    def observer_url(self) -> str:
        """The bus, for a developer who wants to see everything and change nothing."""
        return f"nats://{OBSERVER}:{self.secrets.observer_password}@{LOOPBACK}:{self.nats.port}"

    def mongo_url(self, user: str) -> str:
        """Return the database, for one user."""
        return self.mongo.url(user, self.secrets.mongo_passwords[user])

    def of_service(self, service: User) -> dict[str, str]:
        """Return the whole environment of a service: what development needs, over it that of the caller, in which any
        setting can be changed, and over both what belongs to this stack.
        """
        own = {
            "ENVIRONMENT": "development",
            "WORKER_ID": f"{service}-1",
            "NATS_URL": self.nats.url,
            "NATS_SEED": self.secrets.nats_seeds[service],
            "DRAIN_SECONDS": str(DRAIN_SECONDS),
        }
        if service in self.metrics_ports:
            own["METRICS_PORT"] = str(self.metrics_ports[service])
        if service in STORES:
            own |= {"MONGO_URL": self.mongo_url(service), "MONGO_DATABASE": service}
        if service is User.GATEWAY:
            own |= {"HOST": LOOPBACK, "PORT": str(self.gateway_port)}
        elif service is User.AUTH:
            own |= {"AUTH_PEPPERS": f"1:{self.secrets.auth_pepper}", "AUTH_KEYRING": f"1:{self.secrets.auth_key}"}
        elif service is User.SESSIONS:
            own["PROXY_ROUTERS"] = json.dumps([asdict(router) for router in (self.router, *self.more_routers)])
        return {**DEVELOPMENT.get(service, {}), **os.environ, **own}

    def of_stack(self) -> dict[str, str]:
        """Return what `stack.env` says. The first three are what `morpheus apply` reads anywhere."""
        return {
            "NATS_URL": self.nats.url,
            "NATS_SEED": self.secrets.nats_seeds[User.OPS],
            "MONGO_URL": self.mongo_url(User.OPS),
            "GATEWAY_URL": self.base_url,
            "GATEWAY_PORT": str(self.gateway_port),
            "NATS_PORT": str(self.nats.port),
            "NATS_OBSERVER_URL": self.observer_url,
            "NATS_SUBSCRIBER_SEED": self.secrets.nats_seeds[User.SUBSCRIBER],
            "MONGO_PORT": str(self.mongo.port),
            **{f"{service.upper()}_METRICS_PORT": str(port) for service, port in self.metrics_ports.items()},
            "PROXY_ROUTER_URL": self.router.url,
            "PROXY_ROUTER_USER": self.router.user,
            "PROXY_ROUTER_PASSWORD": self.router.password,
        }
