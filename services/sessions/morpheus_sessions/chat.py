"""Prompts: one at a time per key, first come first served, on the key's current session.

A prompt that finds no session asks automation what to do; all prompts of a key wait for the one open.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from morpheus_common.bus.frames import BEATS_A_SILENCE
from morpheus_common.bus.rpc import RpcClient
from morpheus_common.clock import utc_now
from morpheus_common.contracts.automation import GET_SETTINGS, PLAN_CHAT, Decision, GetSettings, Plan, PlanChat
from morpheus_common.contracts.chat import AcceptFrame, AnswerHead, OwnerFrame, PingAnswer, PingStatus, PromptHead
from morpheus_common.contracts.sessions import AutomationWord, SessionState, Slot
from morpheus_common.errors import ApiError
from morpheus_common.ids import uuid7
from morpheus_common.logs import get_logger
from morpheus_common.request_context import request_id
from morpheus_common.steps import Step, reached
from morpheus_common.store.workers import Heartbeat
from morpheus_common.tracing import NO_SPAN, current_span, span
from nats.aio.client import Client
from nats.errors import Error as NatsError
from pymongo.errors import PyMongoError

from morpheus_sessions.catalogue import CatalogueCopy
from morpheus_sessions.documents import LONG_AGO, Owner, SessionDocument
from morpheus_sessions.failures import PromptFailure
from morpheus_sessions.journal import LOST, SWITCHED, Journal, SlotTaken
from morpheus_sessions.lifecycle import USABLE_SECONDS, Lifecycle, is_usable
from morpheus_sessions.metrics import CLAIM, OPEN, QUEUE, PromptTimer, count_prompt, count_used
from morpheus_sessions.operations import outcome
from morpheus_sessions.ownership import OwnedElsewhere, OwnedSession, Ownership
from morpheus_sessions.pinging import Pinging
from morpheus_sessions.prompt_span import describe, prompt_span
from morpheus_sessions.prompts import Prompt
from morpheus_sessions.router import Router
from morpheus_sessions.settings import SessionsSettings
from morpheus_sessions.sse import StreamRules, finish_json
from morpheus_sessions.upstream import TimeLimits, streamed_answer, whole_answer
from morpheus_sessions.usage import BYTES_A_TOKEN
from morpheus_sessions.usage_writer import UsageWriter

log = get_logger(__name__)

STALLED_SECONDS = 60.0
"""A client that took nothing for so long, while there was something to take, is given up."""
TRIES = 5


class GoElsewhere(Exception):
    """The key's session turned out to be another worker's; nothing was sent."""

    def __init__(self, worker: str) -> None:
        super().__init__(worker)
        self.worker = worker


@dataclass(frozen=True, slots=True)
class FailedOpen:
    """An open that failed at a moment (monotonic seconds): it failed for all who were in line by then."""

    at: float
    model_id: str
    error: ApiError


@dataclass(slots=True)
class Line:
    """The prompts of one key: one runs, the others wait in order."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    inside: int = 0
    running: str | None = None
    failed: FailedOpen | None = None


class Chat:
    """Runs prompts."""

    def __init__(
        self,
        *,
        connection: Client,
        rpc: RpcClient,
        ownership: Ownership,
        heartbeat: Heartbeat,
        journal: Journal,
        lifecycle: Lifecycle,
        catalogue: CatalogueCopy,
        pinging: Pinging,
        routers: Mapping[str, Router],
        usage: UsageWriter,
        settings: SessionsSettings,
    ) -> None:
        self._connection = connection
        self._rpc = rpc
        self._ownership = ownership
        self._heartbeat = heartbeat
        self._journal = journal
        self._lifecycle = lifecycle
        self._catalogue = catalogue
        self._pinging = pinging
        self._routers = routers
        self._usage = usage
        self._settings = settings
        self._limits = TimeLimits(settings.first_byte_timeout, settings.chunk_timeout, settings.answer_timeout)
        self._prompts: dict[str, Prompt] = {}
        self._lines: dict[str, Line] = {}
        self._pings: dict[str, asyncio.Task[PingAnswer]] = {}
        self._body_bytes = 0
        self._leaving_at: float | None = None
        self._giving_up = asyncio.Lock()

    # what arrives

    def start(self, head: PromptHead, inbox: str, body: bytes, *, traceparent: str | None = None) -> None:
        """Take a prompt in, or say at once why not. `traceparent`: what it is a part of."""
        prompt = Prompt(head, inbox, self._connection, span=prompt_span(head, traceparent))
        prompt.start_body(body)
        self._prompts[head.attempt] = prompt
        self._body_bytes += head.body_bytes
        prompt.task = asyncio.create_task(self._run(prompt))
        # not by the task itself: one that is cancelled before its first step runs nothing, not even what stands in `finally`
        prompt.task.add_done_callback(lambda _: self._ended(prompt))

    def prompt(self, attempt: str) -> Prompt | None:
        """Return a prompt of this worker."""
        return self._prompts.get(attempt)

    def __len__(self) -> int:
        return len(self._prompts)

    async def hand_over(self) -> None:
        """Let others have every session that no prompt of this worker is in line for, from now on as soon as that is so."""
        self._leaving_at = time.monotonic()
        async with self._giving_up:
            idle = [owned for owned in self._ownership.all() if owned.key_id not in self._lines]
            try:
                await self._ownership.release_all(idle)
            except PyMongoError as error:
                log.warning("sessions not released", problem=type(error).__name__)

    async def _let_others_have(self, key_id: str) -> None:
        if key_id not in self._lines:
            await self._give_up(key_id, in_line=False)

    async def _give_up(self, key_id: str, *, in_line: bool) -> None:
        # one at a time: who finds nothing to give up must know that it is given up, and not just about to be
        async with self._giving_up:
            if not in_line and key_id in self._lines:
                # who came into line meanwhile may run in it, and gives it up in his turn
                return
            owned = self._ownership.owned(key_id)
            try:
                if owned is None:
                    await self._ownership.release_untaken(key_id)
                else:
                    await self._ownership.release(owned)
            except PyMongoError as error:
                log.warning("session not released", problem=type(error).__name__)

    async def drained(self) -> None:
        """Wait until no prompt is left."""
        while self._prompts:
            tasks = [prompt.task for prompt in self._prompts.values() if prompt.task is not None]
            await asyncio.wait(tasks)

    def cut_off(self) -> None:
        """Enter what the prompts have used that will not come to their end: this worker stops."""
        for prompt in self._prompts.values():
            code = "stream_truncated" if prompt.has_answered else "service_unavailable"
            prompt.tally.failed(code, not_sent=False)
            self._enter(prompt)

    def _enter(self, prompt: Prompt) -> None:
        used = prompt.tally.end(
            time.monotonic(), turn_at=prompt.turn_at, is_gone=prompt.gone, has_answered=prompt.has_answered
        )
        if used is not None:
            self._usage.add(used)
            count_used(used.record)
            if prompt.span.is_recorded:
                describe(prompt.span, used.record)

    async def beat(self) -> None:
        """Keep every attempt alive, and give up those whose other side is gone, until cancelled."""
        while True:
            await asyncio.sleep(self._settings.relay_silence / BEATS_A_SILENCE)
            now = time.monotonic()
            for prompt in list(self._prompts.values()):
                stalled = prompt.waits_for_credit and now - prompt.moved_at > STALLED_SECONDS
                if now - prompt.heard_at > self._settings.relay_silence or stalled:
                    log.info("gateway or client gone", request_id=prompt.head.request_id, stalled=stalled)
                    prompt.leave()
                elif not prompt.gone:
                    try:
                        await prompt.beat()
                    except NatsError as error:
                        log.warning("no beat", problem=type(error).__name__)

    async def release_idle(self) -> None:
        """Let go of sessions that were not used for a while, until cancelled."""
        while True:
            await asyncio.sleep(self._settings.idle_release / 10)
            for owned in self._ownership.all():
                idle = time.monotonic() - owned.used_at > self._settings.idle_release
                if idle and owned.key_id not in self._lines:
                    try:
                        await self._ownership.release(owned)
                    except PyMongoError as error:
                        log.warning("session not released", problem=type(error).__name__)

    @property
    def running(self) -> int:
        """How many prompts run in their sessions."""
        return sum(line.running is not None for line in list(self._lines.values()))

    @property
    def waiting(self) -> int:
        """How many stand in line, or wait for a session."""
        return sum(line.inside for line in list(self._lines.values())) - self.running

    def runs_in(self, session_id: str) -> bool:
        """Tell whether a prompt of this worker runs in a session (our own id)."""
        return any(line.running == session_id for line in self._lines.values())

    # one prompt from start to end

    async def _run(self, prompt: Prompt) -> None:
        request_id.set(prompt.head.request_id)
        prompt.span.enter()
        try:
            await self._answer(prompt)
        except GoElsewhere as elsewhere:
            await self._tell(
                prompt, ApiError("service_unavailable", retry_after=1), not_sent=True, owner=elsewhere.worker
            )
        except PromptFailure as failure:
            log.info("prompt failed", code=failure.error.code, key_id=prompt.head.key_id)
            await self._tell(prompt, failure.error, upstream_code=failure.upstream_code, not_sent=failure.not_sent)
        except ApiError as error:
            await self._tell(prompt, error)
        except PyMongoError as error:
            log.warning("prompt failed at the database", problem=type(error).__name__)
            await self._tell(prompt, ApiError("service_unavailable", retry_after=2))
        except asyncio.CancelledError:
            if not prompt.gone:
                raise
        except Exception:
            # the outermost edge of a prompt: its client is told, and we have the traceback
            log.exception("prompt failed unexpectedly")
            await self._tell(prompt, ApiError("internal_error"))
        finally:
            if self._leaving_at is not None:
                await self._let_others_have(prompt.head.key_id)

    def _ended(self, prompt: Prompt) -> None:
        prompt.over()
        self._enter(prompt)
        prompt.span.end()
        self._body_bytes -= prompt.head.body_bytes
        del self._prompts[prompt.head.attempt]

    async def _tell(
        self,
        prompt: Prompt,
        error: ApiError,
        *,
        upstream_code: str | None = None,
        not_sent: bool = False,
        owner: str | None = None,
    ) -> None:
        prompt.tally.failed(error.code, not_sent=not_sent)
        prompt.span.fail(error)
        if prompt.gone:
            return
        if owner is None and not prompt.head.ping and (not_sent or not prompt.tally.is_taken_up):
            # no record tells of it
            count_prompt(stream=prompt.head.stream, outcome=error.code)
        try:
            await prompt.fail(error, upstream_code=upstream_code, not_sent=not_sent, owner=owner)
        except NatsError as problem:
            log.warning("gateway not told", problem=type(problem).__name__)

    async def _answer(self, prompt: Prompt) -> None:
        key_id = prompt.head.key_id
        if not self._heartbeat.admits:
            raise PromptFailure(ApiError("service_unavailable", retry_after=1), not_sent=True)
        if self._body_bytes > self._settings.body_bytes_at_once:
            raise PromptFailure(ApiError("overloaded", retry_after=1), not_sent=True)
        if self._leaving_at is not None and key_id not in self._lines:
            await self._let_others_have(key_id)
            raise PromptFailure(ApiError("overloaded", retry_after=1), not_sent=True)
        await reached(Step.PROMPT_RECEIVED, key_id)
        if self._ownership.owned(key_id) is None and key_id not in self._lines:
            claimed = await self._claim(key_id)
            if isinstance(claimed, OwnedElsewhere):
                await prompt.refer(OwnerFrame(worker=claimed.worker))
                return
        if not prompt.head.credit:
            await prompt.accept(AcceptFrame(worker=self._ownership.holder.worker))
        await reached(Step.PROMPT_ACCEPTED, key_id)
        if not await self._is_complete(prompt):
            return
        if prompt.head.ping:
            await self._answer_ping(prompt)
            return
        prompt.tally.is_taken_up = True
        waits_since = time.monotonic()
        async with self._turn(key_id) as line:
            prompt.waited(time.monotonic() - waits_since)
            await self._with_turn(prompt, line)

    async def _is_complete(self, prompt: Prompt) -> bool:
        if prompt.is_complete:
            return not prompt.gone
        try:
            async with asyncio.timeout(self._settings.relay_silence):
                await prompt.complete()
        except TimeoutError:
            # another worker was given the credit, or the gateway is gone; nobody waits for this attempt
            prompt.leave()
        return not prompt.gone

    @asynccontextmanager
    async def _turn(self, key_id: str) -> AsyncIterator[Line]:
        line = self._lines.setdefault(key_id, Line())
        if line.inside > self._settings.queue_per_key:
            raise ApiError("session_busy", retry_after=5)
        line.inside += 1
        try:
            try:
                # an idle line needs no clock
                limit = self._settings.queue_wait if line.inside > 1 else None
                with QUEUE.time(), span("wait for turn") if line.inside > 1 else NO_SPAN:
                    async with asyncio.timeout(limit):
                        await line.lock.acquire()
            except TimeoutError:
                raise ApiError("session_busy", retry_after=10) from None
            try:
                yield line
            finally:
                line.lock.release()
        finally:
            line.inside -= 1
            if not line.inside:
                del self._lines[key_id]

    async def _with_turn(self, prompt: Prompt, line: Line) -> None:
        prompt.turn_at = time.monotonic()
        if self._leaving_at is not None and prompt.started_at > self._leaving_at:
            # those before it are done: the next owner may have the key, and this prompt
            await self._give_up(prompt.head.key_id, in_line=True)
            raise PromptFailure(ApiError("overloaded", retry_after=1), not_sent=True)
        unreachable: PromptFailure | None = None
        avoided = ""
        for last in (False, True):
            try:
                owned = await self._session_for(prompt, line, avoided)
            except (ApiError, GoElsewhere):
                if unreachable is None:
                    raise
                # nobody else takes a session: what the client is told is why the first try failed; the session is kept, and
                # whoever stands in line may try it
                line.failed = None
                raise unreachable from None
            await reached(Step.PROMPT_CREDITED, owned.key_id)
            if not self._heartbeat.admits:
                # others may take this worker for dead by now, and its sessions with it
                self._ownership.forget(owned)
                if unreachable is not None:
                    raise unreachable
                raise PromptFailure(ApiError("service_unavailable", retry_after=1), not_sent=True)
            if prompt.gone:
                # its cancellation was swallowed on the way here
                raise asyncio.CancelledError
            line.running = owned.id
            self._ownership.mark_busy(owned, prompt.head.attempt)
            may_still_run = False
            try:
                await self._relay(prompt, owned)
            except PromptFailure as failure:
                may_still_run = failure.end_unseen
                if failure.session_gone:
                    # the provider does not know it any more: it runs out on chain, its key gets another
                    self._ownership.forget(owned)
                    await self._journal.park(owned.id, LOST, chain_session=owned.chain_session)
                    if not last and not prompt.has_answered:
                        continue
                if failure.unreachable and not last and not prompt.has_answered:
                    # another session, with whoever accepts one; this one is parked only when that is open
                    unreachable, avoided = failure, owned.id
                    continue
                if unreachable is not None and failure.not_sent:
                    # the first provider got it, and may have run it: nobody is to send it a third time
                    raise unreachable from None
                raise
            finally:
                line.running = None
                if may_still_run:
                    self._ownership.mark_resting(owned)
                else:
                    self._ownership.mark_free(owned)
            return

    # pings

    async def _answer_ping(self, prompt: Prompt) -> None:
        """Tell how the key's session is. Pings that come together are one."""
        key_id = prompt.head.key_id
        asking = self._pings.get(key_id)
        if asking is None:
            asking = self._pings[key_id] = asyncio.create_task(self._ping(prompt.head))
            asking.add_done_callback(lambda _: self._pings.pop(key_id))
        # as a prompt in JSON mode: it runs to its end at the router whether its client waits or not
        prompt.interruptible = False
        try:
            answer = await asyncio.shield(asking)
        finally:
            prompt.interruptible = True
        if prompt.gone:
            raise asyncio.CancelledError
        await prompt.send(answer.model_dump_json().encode())
        await prompt.end()

    async def _ping(self, head: PromptHead) -> PingAnswer:
        busy = self._lines.get(head.key_id)
        owned = self._ownership.owned(head.key_id)
        if busy is not None and owned is not None and busy.running == owned.id:
            return PingAnswer(status=PingStatus.ALIVE, session_id=owned.chain_session)
        async with self._turn(head.key_id) as line:
            owned = await self._owned_now(head.key_id)
            if owned is not None and owned.state is SessionState.OPENING:
                # what we know of it may be old
                self._ownership.forget(owned)
                owned = await self._owned_now(head.key_id)
            if owned is None:
                return await self._pinging.without_session(head.key_id)
            if owned.state is SessionState.OPENING:
                self._ownership.forget(owned)
                raise ApiError("session_opening", retry_after=5)
            if owned.time_left() < USABLE_SECONDS:
                self._ownership.forget(owned)
                await self._journal.park(owned.id, "expired")
                return PingAnswer(status=PingStatus.EXPIRED, session_id=owned.chain_session)
            if owned.rest_left() > 0:
                # a prompt whose end nobody saw may still run
                return PingAnswer(status=PingStatus.ALIVE, session_id=owned.chain_session)
            line.running = owned.id
            try:
                return await self._pinging.ask(owned, head.attempt)
            finally:
                line.running = None

    # the session of a prompt

    async def _session_for(self, prompt: Prompt, line: Line, avoided: str) -> OwnedSession:
        """Return the session the prompt runs in, opened, switched or resumed if automation says so.

        `avoided` (our own id of a session) is of no use to this prompt, because of its provider.
        """
        head = prompt.head
        failed = line.failed
        if failed is not None and prompt.started_at < failed.at and head.model_id in {None, failed.model_id}:
            raise failed.error
        for _ in range(TRIES):
            owned = await self._owned_now(head.key_id)
            if owned is not None and owned.state is SessionState.OPENING:
                try:
                    with span("wait for session"):
                        await self._wait_for(owned.operation_id, owned.model_id, prompt, line)
                finally:
                    # whatever became of it, what we know of it is old
                    self._ownership.forget(owned)
                continue
            if owned is not None and owned.time_left() < USABLE_SECONDS:
                self._ownership.forget(owned)
                await self._journal.park(owned.id, "expired")
                continue
            if head.session_id is not None:
                if owned is not None and owned.chain_session == head.session_id:
                    self._check_model(head, owned)
                    if owned.id == avoided:
                        raise ApiError("provider_error")
                if owned is not None and owned.chain_session == head.session_id and owned.rest_left() <= 0:
                    return owned
                if owned is not None and owned.chain_session != head.session_id:
                    # its user may have opened the wanted one a moment ago
                    await self._ownership.refresh(head.key_id)
                    if owned.gone:
                        continue
                await self._resume_wanted(head, owned)
                continue
            if owned is not None and head.model_id is None:
                self._check_model(head, owned)
            fits = owned is not None and head.model_id in {None, owned.model_id} and owned.rest_left() <= 0
            if owned is not None and fits and owned.id != avoided:
                return owned
            with span("open session"):
                await self._open_for(prompt, owned, line, avoided)
        raise ApiError("session_opening", retry_after=5)

    def _default_for(self, head: PromptHead) -> str | None:
        """Return the operator's choice for who names no model, if that can answer such a prompt."""
        default = self._catalogue.copy.models.get(self._settings.default_model or "")
        return default.id if default is not None and head.endpoint.takes(default.type) else None

    async def _nothing_named(self, user_id: str) -> ApiError:
        """Return what a prompt is told that names no model and whose key has no session to take one from."""
        settings = await self._rpc.call(GET_SETTINGS, GetSettings(user_id=user_id))
        if not settings.is_enabled:
            return ApiError("no_active_session")
        return ApiError(
            "missing_required_parameter",
            "This API key has no session: name a model, or open one with POST /api/v1/session/modelsession.",
            param="model",
        )

    def _check_model(self, head: PromptHead, owned: OwnedSession) -> None:
        """Raise `ApiError` if a session that the prompt insists on, or takes as it is, cannot answer it."""
        if head.model_id is None:
            head.endpoint.require(self._catalogue.type_of(owned.model_id))
        elif head.model_id != owned.model_id:
            raise ApiError("invalid_value", "The session named by session_id is for another model.", param="model")

    async def _owned_now(self, key_id: str) -> OwnedSession | None:
        owned = self._ownership.owned(key_id)
        if owned is not None:
            return owned
        claimed = await self._claim(key_id)
        if isinstance(claimed, OwnedElsewhere):
            raise GoElsewhere(claimed.worker)
        return claimed

    async def _claim(self, key_id: str) -> OwnedSession | OwnedElsewhere | None:
        with CLAIM.time(), span("claim session"):
            return await self._ownership.claim(key_id)

    async def _wait_for(self, operation_id: str, model_id: str, prompt: Prompt, line: Line) -> None:
        # the time it stood in line is not the chain's
        left = prompt.head.open_wait - (time.monotonic() - prompt.turn_at)
        waits_since = time.monotonic()
        operation = await self._journal.ended(operation_id, wait=max(0.0, left))
        waited = time.monotonic() - waits_since
        prompt.waited(waited)
        OPEN.observe(waited)
        try:
            outcome(operation)
        except ApiError as error:
            if error.code == "session_pending":
                raise ApiError("session_opening", retry_after=5) from None
            line.failed = FailedOpen(time.monotonic(), model_id, error)
            raise

    async def _resume_wanted(self, head: PromptHead, owned: OwnedSession | None) -> None:
        now = await self._journal.now()
        for parked in await self._journal.sessions_of(head.key_id, (SessionState.PARKED,)):
            if parked.chain_session == head.session_id and is_usable(parked, now):
                await self._resume(parked, owned)
                return
        if owned is not None and owned.chain_session == head.session_id:
            raise _resting(owned)
        raise ApiError("session_not_found", param="session_id")

    async def _open_for(self, prompt: Prompt, owned: OwnedSession | None, line: Line, avoided: str) -> None:
        """Bring about a session for the prompt, as automation plans; returns when it is worth looking again."""
        head = prompt.head
        model_id = head.model_id or (owned.model_id if owned is not None else self._default_for(head))
        if model_id is None:
            raise await self._nothing_named(head.user_id)
        rests = owned is not None and owned.model_id == model_id
        parked = None if rests else await self._parked_for(head.key_id, model_id)
        question = PlanChat(
            user_id=head.user_id,
            key_id=head.key_id,
            key_prefix=head.key_prefix,
            model_id=model_id,
            parked=None if parked is None else parked.chain_session,
            current=None if owned is None else owned.chain_session,
            rests=rests,
        )
        plan = await self._rpc.call(PLAN_CHAT, question)
        current_span().set("morpheus.decision", plan.decision)
        if plan.decision is Decision.REFUSE:
            raise _refusal(plan, owned, model_id)
        word = AutomationWord(decision=plan.decision, reason=plan.reason, at=utc_now())
        if parked is not None:
            # what may be opened may all the more be taken back
            await self._resume(parked, owned, word)
            return
        if plan.duration is None:
            # planned for what was parked a moment ago
            return
        left = max(0.0, head.open_wait - (time.monotonic() - prompt.turn_at))
        coming = await self._journal.session_in(head.key_id, Slot.NEXT)
        if coming is not None and coming.model_id != model_id and left > 0:
            # a renewal of the session that this prompt has no use for: a slot is free in a moment
            await self._journal.ended(coming.operation_id, wait=left)
            return
        holder = self._ownership.holder
        coming = await self._lifecycle.begin(
            operation_id=uuid7(),
            user_id=head.user_id,
            key_id=head.key_id,
            key_prefix=head.key_prefix,
            model_id=model_id,
            bid_id=None,
            duration=plan.duration,
            owner=Owner(worker=holder.worker, boot=holder.boot),
            old_becomes=SessionState.PARKED,
            even_if_usable=rests,
            without=owned.provider if owned is not None and owned.id == avoided else None,
            automation=word,
            # the time it stood in line is not the chain's
            patience=left,
        )
        if coming.slot is Slot.NEXT:
            # it becomes current in the transaction that settles it; the one we own then is no more
            await self._wait_for(coming.operation_id, model_id, prompt, line)
            if owned is not None:
                self._ownership.forget(owned)

    async def _parked_for(self, key_id: str, model_id: str) -> SessionDocument | None:
        """Return the session for a model that a key may take back, of several that which ends last."""
        now = await self._journal.now()
        fit = [
            parked
            for parked in await self._journal.sessions_of(key_id, (SessionState.PARKED,))
            if parked.model_id == model_id and parked.reason == SWITCHED and is_usable(parked, now)
        ]
        return max(fit, key=lambda parked: parked.ends_at or LONG_AGO, default=None)

    async def _resume(
        self, parked: SessionDocument, owned: OwnedSession | None, word: AutomationWord | None = None
    ) -> None:
        holder = self._ownership.holder
        try:
            await self._journal.resume(
                parked.id,
                instead_of=None if owned is None else owned.id,
                owner=Owner(worker=holder.worker, boot=holder.boot),
                automation=word,
            )
        except SlotTaken:
            log.info("session was taken meanwhile", key_id=parked.key_id)
        if owned is not None:
            self._ownership.forget(owned)

    # the router

    async def _relay(self, prompt: Prompt, owned: OwnedSession) -> None:
        router = self._routers.get(owned.router)
        if router is None:
            log.error("session belongs to a router that is not configured", router=owned.router)
            raise PromptFailure(ApiError("service_unavailable", retry_after=30), not_sent=True)
        prompt.tally.ran_in(owned)
        prompt.announce(AnswerHead(model=owned.model_name, session_id=owned.chain_session, provider=owned.provider))
        with PromptTimer(prompt.head.endpoint, router.name):
            if prompt.head.stream:
                await self._relay_stream(prompt, owned, router)
            else:
                await self._relay_json(prompt, owned, router)
        await prompt.end()
        await reached(Step.PROMPT_ENDED, owned.key_id)

    async def _relay_stream(self, prompt: Prompt, owned: OwnedSession, router: Router) -> None:
        rules = StreamRules(include_usage=prompt.head.include_usage, choices=prompt.head.choices)
        answer = streamed_answer(
            router, prompt.head.endpoint, owned.chain_session, bytes(prompt.body), self._limits, rules
        )
        # until something comes the router does not notice that we hang up, and the next prompt would stand behind this
        # one: the turn lasts until it has
        prompt.interruptible = False
        try:
            async for piece in answer:
                prompt.interruptible = True
                if prompt.gone:
                    raise asyncio.CancelledError
                await prompt.send(piece, last=rules.is_finished)
                prompt.tally.passed_on(rules.told, rules.chunks, time.monotonic())
        finally:
            prompt.interruptible = True
            # hanging up frees the session at the router with the next chunk or two
            await answer.aclose()

    async def _relay_json(self, prompt: Prompt, owned: OwnedSession, router: Router) -> None:
        # a JSON prompt runs to its end at the router whatever we do: its turn ends when its answer has come
        prompt.interruptible = False
        try:
            body = await whole_answer(
                router,
                prompt.head.endpoint,
                owned.chain_session,
                bytes(prompt.body),
                self._limits,
                max_bytes=self._settings.answer_bytes,
            )
        finally:
            prompt.interruptible = True
        told: dict[str, Any] = {}
        answer_id = f"chatcmpl-{prompt.head.request_id}"
        answer = finish_json(
            body,
            prompt.head.endpoint,
            model=owned.model_name,
            answer_id=answer_id,
            created=int(time.time()),
            told=told,
        )
        prompt.tally.told = told
        if prompt.gone:
            raise asyncio.CancelledError
        await prompt.send(answer, last=True)
        prompt.tally.passed_on(told, len(answer) // BYTES_A_TOKEN, time.monotonic())


def _refusal(plan: Plan, owned: OwnedSession | None, model_id: str) -> ApiError:
    if owned is not None and owned.model_id == model_id:
        return _resting(owned)
    log.info("no session, and automation does not open one", reason=plan.reason)
    if plan.code is None:
        return ApiError("no_active_session")
    return ApiError(plan.code, retry_after=plan.retry_after, details=plan.details)


def _resting(owned: OwnedSession) -> ApiError:
    return ApiError("session_busy", retry_after=max(1, min(60, int(owned.rest_left()) + 1)))
