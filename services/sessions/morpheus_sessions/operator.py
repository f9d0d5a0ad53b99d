"""What operators see and may do: records and chain side by side, what a pass would do, adopting and closing by hand.

Reads change nothing. What acts goes through the journal; the wallets' loops carry it out. What does not carry our tag is
shown and never touched.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal

from bson import Decimal128
from morpheus_common.bus.rpc import RpcClient
from morpheus_common.clock import utc_now
from morpheus_common.contracts.audit import RECORD_ACT, AuditAction, RecordAct
from morpheus_common.contracts.auth import KEY_DEACTIVATED
from morpheus_common.contracts.events import DigestEvent
from morpheus_common.contracts.operator import (
    MODEL_NAME_CHARS,
    AdoptLost,
    ChainPage,
    CloseOurs,
    CloseQueued,
    Doubled,
    DoubledRecords,
    LinkedOpen,
    LinkedRecord,
    ListSessions,
    LookAt,
    MakePass,
    OnChain,
    OperatedSession,
    OperatedSessions,
    OperatedWallet,
    OperatedWallets,
    PassMade,
    PlannedPass,
    PlanPass,
    ReadChain,
    Rule,
)
from morpheus_common.contracts.sessions import SessionState
from morpheus_common.errors import ApiError
from morpheus_common.ids import is_chain_id
from morpheus_common.logs import get_logger, mask_secrets
from pymongo import ASCENDING

from morpheus_sessions.catalogue import CatalogueCopy
from morpheus_sessions.documents import (
    ENDED,
    SENT_STATES,
    KeyGuardDocument,
    OperationDocument,
    OperationKind,
    OperationState,
    SessionDocument,
    wei,
)
from morpheus_sessions.doubled import APPROVAL, CHAIN_SESSION, OPERATION, SLOT, Once, doubled
from morpheus_sessions.fleet import Fleet
from morpheus_sessions.journal import AlreadyAdopted, Journal
from morpheus_sessions.key_watch import digest_key_event
from morpheus_sessions.listing import opened_by
from morpheus_sessions.operator_plan import Waiting, plan_of
from morpheus_sessions.reconcile import Reconciler
from morpheus_sessions.router import ROUTER_ERRORS, ChainSession, Router
from morpheus_sessions.settings import SessionsSettings
from morpheus_sessions.stake import deployment_of

log = get_logger(__name__)

LINKS: Final = 10
DOUBLED: Final = 100
DOUBLED_MILLISECONDS: Final = 50_000
WAITING: Final = 5_000
"""Operations that a plan looks at; a wallet that has more of them has other troubles."""


class Operator:
    """Answers what operators ask of the sessions service. `reconcilers` by the name of their router."""

    def __init__(
        self,
        journal: Journal,
        catalogue: CatalogueCopy,
        routers: Mapping[str, Router],
        reconcilers: Mapping[str, Reconciler],
        settings: SessionsSettings,
        fleet: Fleet,
        rpc: RpcClient,
    ) -> None:
        self._fleet = fleet
        self._rpc = rpc
        self._journal = journal
        self._catalogue = catalogue
        self._routers = routers
        self._reconcilers = reconcilers
        self._settings = settings

    # looking

    async def wallets(self) -> OperatedWallets:
        """Return every router and its wallet, and those that were taken out while sessions stand on their wallets."""
        configured = [await self._wallet(router) for router in self._routers.values()]
        gone = [
            self._known(name).model_copy(update={"problem": problem})
            for name, problem in self._fleet.left_behind.items()
        ]
        return OperatedWallets(wallets=[*configured, *gone], now=utc_now())

    def _known(self, name: str) -> OperatedWallet:
        return OperatedWallet(
            router=name,
            deployment=self._settings.deployment_number,
            pass_seconds=self._settings.reconcile_seconds,
            state=self._fleet.states[name],
        )

    async def _wallet(self, router: Router) -> OperatedWallet:
        known = self._known(router.name)
        try:
            await _identify(router)
            height, balance = await router.latest_block(), await router.balance()
        except ROUTER_ERRORS as error:
            return known.model_copy(update={"problem": _told(error)})
        found = {"wallet": router.wallet, "chain": router.chain, "height": height, "balance": balance}
        return known.model_copy(update=found)

    async def sessions(self, question: ListSessions) -> OperatedSessions:
        """Return a page of records, in the order in which they were made."""
        query: dict[str, Any] = {"state": {"$in": [state.value for state in question.states]}}
        if question.router is not None:
            query["router"] = question.router
        if question.after is not None:
            query["_id"] = {"$gt": question.after}
        found = await self._sessions(query, question.limit + 1)
        rows = await self._rows(found[: question.limit])
        return OperatedSessions(sessions=rows, more=len(found) > question.limit, now=utc_now())

    async def chain(self, question: ReadChain) -> ChainPage:
        """Return a page of a wallet's listing; with the records of those that are open."""
        router = await self._router(question.router)
        try:
            before = await router.latest_block()
            listed = await router.sessions_of_wallet(offset=question.offset, limit=question.limit)
            height = min(before, await router.latest_block())
        except ROUTER_ERRORS as error:
            raise _unavailable(router, error) from None
        return ChainPage(sessions=await self._linked(router, listed), more=len(listed) >= question.limit, height=height)

    async def look(self, question: LookAt) -> OnChain:
        """Return one session of a wallet of ours. Raises `session_not_found`."""
        router, found = await self._on_chain(question.session_id)
        (linked,) = await self._linked(router, [found], closed_too=True)
        return linked

    async def doubled(self) -> DoubledRecords:
        """Return what breaks a rule that the records alone can break."""
        return DoubledRecords(
            doubled=[
                *await _doubled(Rule.SLOT, SLOT),
                *await _doubled(Rule.CHAIN_SESSION, CHAIN_SESSION),
                *await _doubled(Rule.OPERATION, OPERATION),
                *await _doubled(Rule.APPROVAL, APPROVAL),
            ]
        )

    async def plan(self, question: PlanPass) -> PlannedPass:
        """Return what a complete pass over a wallet, and its loop, would do now. Changes nothing."""
        router = await self._router(question.router)
        try:
            listing, findings = await self._reconcilers[router.name].find(complete=True)
        except ROUTER_ERRORS as error:
            raise _unavailable(router, error) from None
        waiting = [await self._waiting(operation) for operation in await self._operations(router.wallet)]
        planned = plan_of(findings, waiting, now=utc_now(), abandon_after=self._settings.abandon_after)
        page = planned[question.offset : question.offset + question.limit]
        return PlannedPass(planned=page, more=len(planned) > question.offset + question.limit, height=listing.height)

    # doing

    async def make_pass(self, command: MakePass) -> PassMade:
        """Ask the loop of a wallet, whichever worker runs it, to make a complete pass now, and wait for it."""
        router = await self._router(command.router)
        asked = await self._journal.ask_pass(router.wallet, router.name)
        done = await self._journal.pass_made(router.wallet, asked, wait=command.wait)
        if done is None:
            return PassMade(made=False, done={})
        return PassMade(made=True, done=done, under_way=len(await self._operations(router.wallet)))

    async def digest(self, command: DigestEvent) -> None:
        """Do what an event says that was set aside. Raises `validation_error` for one that no reader of ours is for."""
        if command.subject != KEY_DEACTIVATED.subject:
            raise ApiError("validation_error", f"Sessions reads no event of {command.subject}.", param="subject")
        await digest_key_event(self._journal, command.payload)

    async def adopt(self, command: AdoptLost) -> OperatedSession:
        """Make a record for a lost session. Raises `foreign_session`, `session_known`, `session_not_found`."""
        seen = await self.look(LookAt(session_id=command.session_id))
        if not seen.ours:
            raise ApiError("foreign_session")
        same = next((record for record in seen.records if record.key_id == command.key_id), None)
        if seen.records or any(item.state in (*SENT_STATES, OperationState.PENDING) for item in seen.opens):
            if same is None:
                raise ApiError("session_known")
            return await self._row(same.id)
        if seen.closed_at is not None:
            raise ApiError("session_not_found", "That session is closed on chain: nothing is at stake.")
        router, found = await self._on_chain(command.session_id)
        user_id, key_prefix = await self._owner(command)
        await self._record(AuditAction.SESSION_ADOPTED, command.session_id)
        try:
            adopted = await self._journal.adopt_lost(
                found,
                chain=router.chain,
                wallet=router.wallet,
                router=router.name,
                block=await router.latest_block(),
                user_id=user_id,
                key_id=command.key_id,
                key_prefix=key_prefix,
                model_name=self._model_name(found.model_id),
            )
        except AlreadyAdopted:
            raise ApiError("session_known") from None
        except ROUTER_ERRORS as error:
            raise _unavailable(router, error) from None
        log.warning(
            "lost session adopted by an operator", session=found.id, key_id=command.key_id, stake=str(found.stake)
        )
        return await self._row(adopted.id)

    async def close(self, command: CloseOurs) -> CloseQueued:
        """Queue the close of a session of ours. Raises `foreign_session`, `session_unrecorded`, `session_not_found`, and
        `service_unavailable` while it cannot be entered into the audit log, unless that is waived.
        """
        wanted = command.session_id
        found = await self._sessions({"$or": [{"_id": wanted}, {"chain_session": wanted}]}, 1)
        if not found:
            if is_chain_id(wanted):
                _, seen = await self._on_chain(wanted)
                raise ApiError("session_unrecorded" if self._is_ours(seen.stake) else "foreign_session")
            raise ApiError("session_not_found", "No record of ours has that id.")
        session = found[0]
        if session.stake is not None and not self._is_ours(wei(session.stake) or 0):
            raise ApiError("foreign_session")
        try:
            await self._record(AuditAction.SESSION_CLOSED, session.chain_session or session.id)
        except ApiError as error:
            if not command.unrecorded:
                raise
            # what is at stake does not wait for a log
            log.critical("an act of an operator is not in the audit log", session=session.id, code=error.code)
        if session.state is SessionState.OPENING and await self._journal.unwant(session):
            operation_id = None
        else:
            operation_id = await self._journal.request_close(session, "operator")
            if operation_id is None:
                raise ApiError("session_not_found", f"That session is {session.state}: there is nothing to close.")
        log.warning("close asked for by an operator", session=session.chain_session, key_id=session.key_id)
        return CloseQueued(session=await self._row(session.id), operation_id=operation_id)

    # pieces

    async def _record(
        self, action: Literal[AuditAction.SESSION_ADOPTED, AuditAction.SESSION_CLOSED], session: str
    ) -> None:
        """Have auth enter what is about to be done. Raises `ApiError` (service_unavailable)."""
        try:
            await self._rpc.call(RECORD_ACT, RecordAct(action=action, session=session))
        except ApiError as error:
            log.error("an act of an operator cannot be entered into the audit log", action=action, code=error.code)
            raise ApiError(
                "service_unavailable",
                "Auth, which keeps the audit log, does not answer: nothing was done.",
                retry_after=5,
            ) from None

    async def _router(self, name: str) -> Router:
        router = self._routers.get(name)
        if router is None:
            known = ", ".join(self._routers)
            raise ApiError("invalid_value", f"No router has that name; there are: {known}.", param="router")
        try:
            await _identify(router)
        except ROUTER_ERRORS as error:
            raise _unavailable(router, error) from None
        return router

    async def _on_chain(self, session_id: str) -> tuple[Router, ChainSession]:
        """Return a session of a wallet of ours and its router. Raises `session_not_found`."""
        away: list[ApiError] = []
        for router in self._routers.values():
            try:
                await _identify(router)
                found = await router.session(session_id)
            except ROUTER_ERRORS as error:
                away.append(_unavailable(router, error))
                continue
            if found is not None and found.user == router.wallet:
                return router, found
        if away:
            # it may be on the wallet that did not answer
            raise away[0]
        raise ApiError("session_not_found", "No wallet of ours has that session on chain.")

    def _is_ours(self, stake: int) -> bool:
        return deployment_of(stake) == self._settings.deployment_number

    def _model_name(self, model_id: str) -> str:
        try:
            return self._catalogue.model(model_id).name
        except ApiError:
            # deleted since, or the catalogue was never read: the id is what counts
            return model_id

    async def _owner(self, command: AdoptLost) -> tuple[str, str]:
        """Return user and prefix of the key that is to have a session."""
        guard = await KeyGuardDocument.get_pymongo_collection().find_one({"_id": command.key_id})
        others = await self._sessions({"key_id": command.key_id}, 1)
        known = guard["user_id"] if guard is not None else others[0].user_id if others else None
        if known is not None and command.user_id not in {None, known}:
            raise ApiError("invalid_value", "That key belongs to another user.", param="user_id")
        user_id = known or command.user_id
        if user_id is None:
            raise ApiError("key_not_found", "No record says whose key that is. Name its user as well.")
        return user_id, others[0].key_prefix if others else ""

    async def _sessions(self, query: Mapping[str, Any], limit: int) -> list[SessionDocument]:
        cursor = SessionDocument.get_pymongo_collection().find(query).sort("_id", ASCENDING).limit(limit)
        return [SessionDocument.model_validate(item) async for item in cursor]

    async def _row(self, session_id: str) -> OperatedSession:
        (row,) = await self._rows(await self._sessions({"_id": session_id}, 1))
        return row

    async def _rows(self, sessions: list[SessionDocument]) -> list[OperatedSession]:
        query = {
            "session": {"$in": [session.id for session in sessions]},
            "state": {"$nin": [state.value for state in ENDED]},
        }
        fields = {"session": 1, "kind": 1, "stuck": 1}
        working = {
            item["session"]: item async for item in OperationDocument.get_pymongo_collection().find(query, fields)
        }
        return [self._operated(session, working.get(session.id)) for session in sessions]

    def _operated(self, session: SessionDocument, working: Mapping[str, Any] | None) -> OperatedSession:
        stake = wei(session.stake)
        return OperatedSession(
            id=session.id,
            state=session.state,
            slot=session.slot,
            session_id=session.chain_session,
            router=session.router,
            wallet=session.wallet,
            key_id=session.key_id,
            key_prefix=session.key_prefix,
            user_id=session.user_id,
            model_id=session.model_id,
            model=session.model_name[:MODEL_NAME_CHARS],
            bid_id=session.bid_id,
            provider=session.provider,
            stake=stake,
            ours=stake is not None and self._is_ours(stake),
            wanted=session.wanted,
            reason=session.reason,
            operation_id=session.operation_id,
            operation=None if working is None else str(working["kind"]),
            stuck=working is not None and bool(working.get("stuck")),
            created_at=session.created_at,
            opened_at=session.opened_at,
            ends_at=session.ends_at,
            reserved=wei(session.reserved) if session.state is SessionState.OPENING else None,
        )

    async def _linked(self, router: Router, listed: list[ChainSession], *, closed_too: bool = False) -> list[OnChain]:
        looked_up = [seen for seen in listed if seen.is_open or closed_too]
        records: dict[str, list[SessionDocument]] = {}
        query = {"chain": router.chain, "chain_session": {"$in": [seen.id for seen in looked_up]}}
        for session in await self._sessions(query, LINKS * max(1, len(looked_up))):
            records.setdefault(session.chain_session or "", []).append(session)
        opens = await self._opens(router.wallet, [seen for seen in looked_up if seen.id not in records])
        return [self._seen(router, seen, records.get(seen.id, []), opens) for seen in listed]

    async def _opens(self, wallet: str, unknown: list[ChainSession]) -> list[OperationDocument]:
        """Return the opens that may have opened what no record stands for."""
        ours = [seen for seen in unknown if self._is_ours(seen.stake)]
        if not ours:
            return []
        query = {
            "wallet": wallet,
            "kind": OperationKind.OPEN.value,
            "bid_id": {"$in": [seen.bid_id for seen in ours]},
            "stake": {"$in": [Decimal128(str(seen.stake)) for seen in ours]},
        }
        cursor = OperationDocument.get_pymongo_collection().find(query).limit(LINKS * len(ours))
        return [OperationDocument.model_validate(item) async for item in cursor]

    def _seen(
        self,
        router: Router,
        seen: ChainSession,
        records: list[SessionDocument],
        opens: Iterable[OperationDocument],
    ) -> OnChain:
        return OnChain(
            session_id=seen.id,
            router=router.name,
            wallet=router.wallet,
            chain=router.chain,
            bid_id=seen.bid_id,
            provider=seen.provider,
            model_id=seen.model_id,
            stake=seen.stake,
            ours=self._is_ours(seen.stake),
            opened_at=datetime.fromtimestamp(seen.opened_at, UTC),
            ends_at=datetime.fromtimestamp(seen.ends_at, UTC),
            closed_at=None if seen.is_open else datetime.fromtimestamp(seen.closed_at, UTC),
            records=[
                LinkedRecord(
                    id=record.id,
                    state=record.state,
                    key_id=record.key_id,
                    stake=wei(record.stake),
                    wallet=record.wallet,
                )
                for record in records[:LINKS]
            ],
            opens=[
                LinkedOpen(id=item.id, state=item.state, session=item.session)
                for item in opens
                if not records and opened_by(item, seen)
            ][:LINKS],
        )

    async def _operations(self, wallet: str) -> list[OperationDocument]:
        unfinished = {"state": {"$nin": [state.value for state in ENDED]}, "wallet": {"$in": [wallet, None]}}
        given_up = {
            "state": OperationState.ABANDONED.value,
            "wallet": wallet,
            "kind": OperationKind.OPEN.value,
        }
        cursor = OperationDocument.get_pymongo_collection().find({"$or": [unfinished, given_up]})
        found = cursor.sort("created_at", ASCENDING).limit(WAITING)
        return [OperationDocument.model_validate(item) async for item in found]

    async def _waiting(self, operation: OperationDocument) -> Waiting:
        session = await self._journal.session(operation.session)
        return Waiting(operation, session, await self._journal.is_wanted(operation))


async def _identify(router: Router) -> None:
    if not router.wallet:
        await router.identify()


def _told(error: Exception) -> str:
    """What a router said, without what may be a secret of its chain node."""
    return mask_secrets(f"{type(error).__name__}: {error}")[:300]


def _unavailable(router: Router, error: Exception) -> ApiError:
    log.warning("an operator's question has to wait for the router", router=router.name, problem=_told(error))
    return ApiError("service_unavailable", f"The router {router.name} does not answer as it should.", retry_after=5)


async def _doubled(rule: Rule, once: Once) -> list[Doubled]:
    collection = once.document.get_pymongo_collection()
    return [
        Doubled(
            rule=rule,
            # an approval is worth money: the operations say enough
            key="" if rule is Rule.APPROVAL else " ".join(str(part) for part in item["_id"].values()),
            ids=item["ids"],
        )
        for item in await doubled(collection, once, most=DOUBLED, ids=LINKS, milliseconds=DOUBLED_MILLISECONDS)
    ]
