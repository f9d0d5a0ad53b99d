"""Whether a session is alive: asked with a completion of one token, in the turn of its key's prompts."""

import time
from collections.abc import Mapping

import orjson
from morpheus_common.contracts.chat import Endpoint, PingAnswer, PingStatus
from morpheus_common.contracts.sessions import ModelType, SessionState
from morpheus_common.errors import ApiError
from morpheus_common.logs import get_logger
from morpheus_common.steps import Step, reached

from morpheus_sessions.catalogue import CatalogueCopy
from morpheus_sessions.failures import PromptFailure
from morpheus_sessions.journal import Journal
from morpheus_sessions.lifecycle import is_usable
from morpheus_sessions.ownership import OwnedSession, Ownership
from morpheus_sessions.router import ROUTER_ERRORS, Router
from morpheus_sessions.settings import SessionsSettings
from morpheus_sessions.sse import StreamRules, finish_json
from morpheus_sessions.upstream import TimeLimits, streamed_answer, whole_answer

log = get_logger(__name__)

TIMES = 2
"""How often a provider may be silent before its session is taken for dead."""
PARKED_LOOKED_AT = 10


class Pinging:
    """Asks providers whether they still serve a session. What is dead is closed on chain, in the background."""

    def __init__(
        self,
        ownership: Ownership,
        journal: Journal,
        catalogue: CatalogueCopy,
        routers: Mapping[str, Router],
        settings: SessionsSettings,
    ) -> None:
        self._ownership = ownership
        self._journal = journal
        self._catalogue = catalogue
        self._routers = routers
        self._settings = settings
        seconds = settings.ping_timeout
        # a silent prompt holds the session's one place at the router, whether we hang up or not: a second one would
        # stand behind it. So where the router does not say that the first is over, it is waited for twice as long
        self._limits = TimeLimits(first_byte=TIMES * seconds, chunk=seconds, answer=(TIMES + 1) * seconds)

    async def without_session(self, key_id: str) -> PingAnswer:
        """Return how it is with a key that has no current session: its last one may have run out."""
        parked = await self._journal.newest_sessions_of(key_id, (SessionState.PARKED,), limit=PARKED_LOOKED_AT)
        expired = next((session for session in parked if session.reason == "expired"), None)
        if expired is None:
            return PingAnswer(status=PingStatus.NO_SESSION)
        return PingAnswer(status=PingStatus.EXPIRED, session_id=expired.chain_session)

    async def ask(self, owned: OwnedSession, attempt: str) -> PingAnswer:
        """Ask in a session of this worker, whose turn it is. Raises `ApiError` where nothing was learned of it."""
        self._ownership.mark_busy(owned, attempt)
        may_still_run = False
        try:
            latency = await self._until_it_answers(owned)
        except PromptFailure as failure:
            may_still_run = failure.end_unseen
            if failure.not_sent:
                raise failure.error from None
            if failure.end_unseen and not await self._router_answers(owned):
                # it is the router that is silent: nothing is known of the provider, and an early close locks the stake
                raise ApiError("service_unavailable", retry_after=30) from None
            if failure.session_gone and await self._is_over(owned):
                return PingAnswer(status=PingStatus.EXPIRED, session_id=owned.chain_session)
            log.info("session is dead", session=owned.chain_session, code=failure.error.code)
        else:
            return PingAnswer(status=PingStatus.ALIVE, session_id=owned.chain_session, latency_ms=round(latency * 1000))
        finally:
            if may_still_run:
                self._ownership.mark_resting(owned)
            else:
                # whoever only looks whether it is alive does not use it
                self._ownership.mark_free(owned, used=False)
        await self._close(owned)
        return PingAnswer(status=PingStatus.DEAD, session_id=owned.chain_session)

    async def _router_answers(self, owned: OwnedSession) -> bool:
        router = self._routers.get(owned.router)
        if router is None:
            return False
        try:
            await router.latest_block()
        except ROUTER_ERRORS as error:
            log.warning("a ping learned nothing: the router is silent", router=owned.router, problem=str(error)[:200])
            return False
        return True

    async def _is_over(self, owned: OwnedSession) -> bool:
        """Tell whether the session has run out: then its stake comes back by itself, and nobody closes it early."""
        session = await self._journal.session(owned.id)
        return session is not None and not is_usable(session, await self._journal.now())

    async def _until_it_answers(self, owned: OwnedSession) -> float:
        """Return the seconds until the first token, of the second try if the first timed out at the router."""
        for last in (False, True):
            try:
                return await self._once(owned)
            except PromptFailure as failure:
                if last or failure.end_unseen or failure.error.code != "provider_timeout":
                    raise
        raise AssertionError("the last try returns or raises")

    async def _once(self, owned: OwnedSession) -> float:
        router = self._routers.get(owned.router)
        if router is None:
            log.error("session belongs to a router that is not configured", router=owned.router)
            raise ApiError("service_unavailable", retry_after=30)
        match self._catalogue.type_of(owned.model_id):
            case ModelType.EMBEDDING:
                return await self._embedded(owned, router)
            case ModelType.STT | ModelType.TTS:
                raise ApiError("model_type_mismatch", "This session's model answers no chat: it cannot be pinged.")
            case _:
                return await self._completed(owned, router)

    async def _completed(self, owned: OwnedSession, router: Router) -> float:
        begun = time.monotonic()
        first: float | None = None
        body = orjson.dumps(
            {
                "model": owned.model_name,
                "messages": [{"role": "user", "content": "ping"}],
                "max_tokens": 1,
                "stream": True,
            }
        )
        rules = StreamRules(include_usage=False)
        answer = streamed_answer(router, Endpoint.CHAT, owned.chain_session, body, self._limits, rules)
        try:
            async for _ in answer:
                first = first or time.monotonic()
        finally:
            await answer.aclose()
        return (first or time.monotonic()) - begun

    async def _embedded(self, owned: OwnedSession, router: Router) -> float:
        begun = time.monotonic()
        seconds = TIMES * self._settings.ping_timeout
        body = orjson.dumps({"model": owned.model_name, "input": "ping"})
        answer = await whole_answer(
            router,
            Endpoint.EMBEDDINGS,
            owned.chain_session,
            body,
            TimeLimits(first_byte=seconds, chunk=seconds, answer=seconds),
            max_bytes=self._settings.answer_bytes,
        )
        finish_json(answer, Endpoint.EMBEDDINGS, model=owned.model_name, answer_id="", created=0)
        return time.monotonic() - begun

    async def _close(self, owned: OwnedSession) -> None:
        await reached(Step.CLOSE_TRIGGERED, owned.id)
        self._ownership.forget(owned)
        session = await self._journal.session(owned.id)
        if session is not None:
            await self._journal.request_close(session, "dead")
