"""Who may do what on the bus, and the nats-server configuration that says so.

Deny by default: a user may publish and subscribe exactly what is listed here. What may be asked is derived from the
registry of contracts (each names its callers). Production, the development stack and the tests render their
configuration from this module.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from morpheus_common.bus.names import ACCOUNT, CHAT_START, INBOX, Stream, User
from morpheus_common.bus.topology import CONSUMERS
from morpheus_common.contracts import REGISTRY

MAX_PAYLOAD_BYTES = 1024 * 1024
"""The server's own default. Larger bodies travel as frames."""


@dataclass(frozen=True, slots=True)
class Permissions:
    """Subjects a user may publish to and subscribe to. `answers`: may reply once to each question it received.

    `never` takes back a part of what the wildcards in `publish` allow.
    """

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    answers: bool
    never: tuple[str, ...] = ()


def _questions_of(user: User) -> list[str]:
    return sorted(subject for subject, rpc in REGISTRY.rpcs.items() if user in rpc.callers)


def _events_of(user: User) -> list[str]:
    own = any(event.domain is user for event in REGISTRY.events.values())
    return [f"evt.{user}.>"] if own else []


def _durable_rights(user: User) -> list[str]:
    rights = []
    for consumer in CONSUMERS:
        if consumer.service is user:
            stream, name = consumer.stream, consumer.name
            rights += [
                f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}",
                f"$JS.API.CONSUMER.INFO.{stream}.{name}",
                f"$JS.ACK.{stream}.{name}.>",
                *(f"dlq.{subject}" for subject in consumer.filters),
            ]
    return rights


def permissions_of(user: User) -> Permissions:
    """Return what `user` may do."""
    inbox = f"{INBOX[user]}.>"
    publish = [*_questions_of(user), *_events_of(user), *_durable_rights(user)]
    subscribe = [inbox]
    answers = False
    if any(rpc.service is user for rpc in REGISTRY.rpcs.values()):
        subscribe.append(f"rpc.{user}.>")
        answers = True
    if user is User.GATEWAY:
        publish += [CHAT_START, f"{CHAT_START}.*", "chat.credit.*.*", "chat.body.*.*", "chat.cancel.*.*"]
    elif user is User.SESSIONS:
        # an answer is many frames; `allow_responses` would cut it after the first (measured)
        publish += [f"{INBOX[User.GATEWAY]}.>", "chat.changed.*.*"]
        subscribe += [CHAT_START, f"{CHAT_START}.*"]
        subscribe += [f"chat.{kind}.*.*" for kind in ("credit", "body", "cancel", "changed")]
    elif user is User.OPS:
        publish.append("$JS.API.>")
    elif user is User.SUBSCRIBER:
        publish += [
            f"$JS.API.STREAM.INFO.{Stream.EVENTS}",
            f"$JS.API.CONSUMER.CREATE.{Stream.EVENTS}.*",
            f"$JS.API.CONSUMER.CREATE.{Stream.EVENTS}.*.>",
            f"$JS.API.CONSUMER.INFO.{Stream.EVENTS}.*",
            f"$JS.API.CONSUMER.MSG.NEXT.{Stream.EVENTS}.*",
            f"$JS.API.CONSUMER.DELETE.{Stream.EVENTS}.*",
            f"$JS.ACK.{Stream.EVENTS}.>",
            f"$JS.FC.{Stream.EVENTS}.>",
        ]
    never = _durables_of_others() if user is User.SUBSCRIBER else []
    return Permissions(tuple(publish), tuple(subscribe), answers, tuple(never))


def _durables_of_others() -> list[str]:
    """Keep a subscriber's hands off the services' own consumers: over one it would make anew, change or delete, or whose
    events it would fetch, a service would miss what it must not.
    """
    return [
        subject
        for consumer in CONSUMERS
        for subject in (
            f"$JS.API.CONSUMER.*.{consumer.stream}.{consumer.name}",
            f"$JS.API.CONSUMER.*.{consumer.stream}.{consumer.name}.>",
            f"$JS.API.CONSUMER.MSG.NEXT.{consumer.stream}.{consumer.name}",
            f"$JS.ACK.{consumer.stream}.{consumer.name}.>",
        )
    ]


def _list(subjects: tuple[str, ...]) -> str:
    return "[" + ", ".join(json.dumps(subject) for subject in subjects) + "]"


def _user_block(user: User, public_key: str) -> str:
    rights = permissions_of(user)
    never = f", deny: {_list(rights.never)}" if rights.never else ""
    publish = f"publish: {{ allow: {_list(rights.publish)}{never} }}" if rights.publish else 'publish: { deny: [">"] }'
    answers = ", allow_responses: true" if rights.answers else ""
    subscribe = f"subscribe: {{ allow: {_list(rights.subscribe)} }}"
    return f"      {{ nkey: {json.dumps(public_key)}, permissions: {{ {publish}, {subscribe}{answers} }} }}"


@dataclass(frozen=True, slots=True)
class Tls:
    """Files of the server's certificate, its key, and of the authority that signed it and the other servers' (PEM)."""

    cert: str
    key: str
    ca: str


@dataclass(frozen=True, slots=True)
class Cluster:
    """The servers that keep streams together. `routes` are all of them, `nats-route://host:port`; `user` and `password` are
    what they know each other by.
    """

    name: str
    listen: str
    routes: tuple[str, ...]
    user: str
    password: str


def render_server_config(
    *,
    listen: str,
    store_dir: str,
    accounts: Mapping[str, Mapping[User, str]],
    observer: tuple[str, str] | None = None,
    server_name: str | None = None,
    monitor: str | None = None,
    tls: Tls | None = None,
    cluster: Cluster | None = None,
) -> str:
    """Return a nats-server configuration.

    `listen` and `monitor` (its HTTP port with `/healthz`) are host:port. `accounts` maps an account's name (production has
    one, `ACCOUNT`) to the public NKeys of its users. `observer` (user name, password) is for development only: it may listen
    to everything in `ACCOUNT` and read JetStream, and publish nothing else. A `server_name` such as `$POD_NAME` is taken
    from the server's environment; servers of a cluster need different ones. With `tls` clients and routes are encrypted.
    """
    blocks = []
    for name, keys in accounts.items():
        users = [_user_block(user, key) for user, key in keys.items()]
        if observer is not None and name == ACCOUNT:
            user, password = (json.dumps(text) for text in observer)
            users.append(
                f"      {{ user: {user}, password: {password}, permissions: "
                '{ publish: { allow: ["$JS.API.>", "$JS.ACK.>"] }, subscribe: { allow: [">"] } } }'
            )
        body = "\n".join(users)
        blocks.append(f"  {name}: {{\n    jetstream: enabled\n    users: [\n{body}\n    ]\n  }}")
    account_text = "\n".join(blocks)
    lines = [f"listen: {json.dumps(listen)}"]
    if server_name is not None:
        lines.append(f"server_name: {server_name if server_name.startswith('$') else json.dumps(server_name)}")
    if monitor is not None:
        lines.append(f"http: {json.dumps(monitor)}")
    lines += [
        f"max_payload: {MAX_PAYLOAD_BYTES}",
        'ping_interval: "20s"',
        'lame_duck_grace_period: "1s"',
        'lame_duck_duration: "30s"',
        f"jetstream: {{ store_dir: {json.dumps(store_dir)} }}",
    ]
    if tls is not None:
        lines.append(f"tls: {_tls_block(tls)}")
    if cluster is not None:
        lines.append(f"cluster: {_cluster_block(cluster, tls)}")
    return "\n".join(lines) + f"\naccounts: {{\n{account_text}\n}}\n"


def _tls_block(tls: Tls, *, mutual: bool = False) -> str:
    files = f"cert_file: {json.dumps(tls.cert)}, key_file: {json.dumps(tls.key)}, ca_file: {json.dumps(tls.ca)}"
    return f"{{ {files}{', verify: true' if mutual else ''} }}"


def _cluster_block(cluster: Cluster, tls: Tls | None) -> str:
    login = f"{{ user: {json.dumps(cluster.user)}, password: {json.dumps(cluster.password)} }}"
    routes = _list(tuple(route.replace("//", f"//{cluster.user}:{cluster.password}@", 1) for route in cluster.routes))
    encrypted = f"\n  tls: {_tls_block(tls, mutual=True)}" if tls is not None else ""
    return (
        f"{{\n  name: {json.dumps(cluster.name)}\n  listen: {json.dumps(cluster.listen)}\n"
        f"  authorization: {login}\n  routes: {routes}{encrypted}\n}}"
    )
