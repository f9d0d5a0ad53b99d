"""Everything a gateway process has one of: this page shows how it is put together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Self

from fastapi import Depends, Request
from morpheus_common.bus.inbox import RelayInbox
from morpheus_common.bus.rpc import RpcClient
from morpheus_common.contracts.auth import CHECK_KEY, CHECK_TOKEN, Caller, CheckKey, CheckToken
from morpheus_common.errors import ApiError
from morpheus_common.service import background
from nats.aio.client import Client

from morpheus_gateway.answers import AnswerTimes
from morpheus_gateway.callers import USABLE_SECONDS, CallerCache
from morpheus_gateway.catalogue import ModelCatalogue
from morpheus_gateway.health import Health
from morpheus_gateway.limits import Limits
from morpheus_gateway.public_keys import PublicKeys
from morpheus_gateway.rated_bids import RatedBidsCopies
from morpheus_gateway.relay import Relay, RelayTimes
from morpheus_gateway.secrets_channel import SecretsChannel
from morpheus_gateway.settings import GatewaySettings
from morpheus_gateway.tokens import TokenVerifier


@dataclass(frozen=True, slots=True)
class Context:
    """The singletons of one process."""

    settings: GatewaySettings
    rpc: RpcClient
    keys: CallerCache
    logins: CallerCache
    public_keys: PublicKeys
    tokens: TokenVerifier
    secrets: SecretsChannel
    catalogue: ModelCatalogue
    rated_bids: RatedBidsCopies
    inbox: RelayInbox
    relay: Relay
    answer_times: AnswerTimes
    limits: Limits

    @classmethod
    def build(cls, settings: GatewaySettings, connection: Client, times: RelayTimes) -> Self:
        """Put everything together on a connection to the bus."""
        rpc = RpcClient(connection)

        # an answer that took longer than it may be used is no answer
        async def ask_key(digest: str) -> Caller:
            return await rpc.call(CHECK_KEY, CheckKey(sha256=digest), timeout=USABLE_SECONDS)

        async def ask_login(ids: str) -> Caller:
            user_id, _, login_id = ids.partition(" ")
            return await rpc.call(CHECK_TOKEN, CheckToken(user_id=user_id, login_id=login_id), timeout=USABLE_SECONDS)

        public_keys = PublicKeys(rpc)
        inbox = RelayInbox(connection, settings.worker_id)
        return cls(
            settings=settings,
            rpc=rpc,
            keys=CallerCache(ask_key),
            logins=CallerCache(ask_login),
            public_keys=public_keys,
            tokens=TokenVerifier(public_keys, issuer=settings.token_issuer, audience=settings.token_audience),
            secrets=SecretsChannel(rpc, public_keys),
            catalogue=ModelCatalogue(rpc),
            rated_bids=RatedBidsCopies(rpc),
            inbox=inbox,
            relay=Relay(connection, inbox, times),
            answer_times=AnswerTimes(commit=settings.stream_commit, keep_alive=settings.keep_alive),
            limits=Limits.build(settings),
        )

    @asynccontextmanager
    async def running(self, connection: Client, health: Health) -> AsyncIterator[None]:
        """Listen to the relay's frames and keep all copies fresh."""
        await self.inbox.start()
        try:
            await self.limits.open()
            async with background(
                self.public_keys.keep_fresh(),
                self.catalogue.keep_fresh(),
                self.relay.repeat_credits(),
                health.watch(connection, self.rpc),
            ):
                yield
        finally:
            await self.inbox.stop()
            await self.limits.close()


def context_of(request: Request) -> Context:
    """Return the process's context. Raises `service_unavailable` until the bus was reached for the first time."""
    context: Context | None = request.app.state.context
    if context is None:
        raise ApiError("service_unavailable", retry_after=1)
    return context


async def context_of_route(request: Request) -> Context:
    # FastAPI runs a dependency that is no coroutine in a thread: two changes of threads for each request
    return context_of(request)


ContextOf = Annotated[Context, Depends(context_of_route)]
