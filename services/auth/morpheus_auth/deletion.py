"""Deleting an account: a saga over all services, carried on until it is complete, whatever dies on the way.

1. One transaction ends the credentials: nothing of the user is admitted any more. 2. The sessions service closes what is on
chain, and is asked again until nothing is open. 3. It erases its records, then automation its own. 4. One transaction erases
what auth has, the account last, and says so. What has been done stands in one document, which outlives the account without
naming anybody; each part can be asked for again and gives the same count.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final

from morpheus_common.bus.rpc import RpcClient
from morpheus_common.clock import Clock
from morpheus_common.contracts.audit import Actor, AuditAction
from morpheus_common.contracts.auth import KEY_DEACTIVATED, KeyChanged
from morpheus_common.contracts.base import Rpc
from morpheus_common.contracts.deletion import (
    CLOSE_USER,
    ERASE_USER_SESSIONS,
    ERASE_USER_SETTINGS,
    USER_DELETED,
    AccountDeletion,
    CloseUser,
    DeleteAccount,
    DeletedData,
    DeletionState,
    EraseUser,
    UserDeleted,
    UserErased,
)
from morpheus_common.errors import ApiError
from morpheus_common.logs import get_logger
from morpheus_common.service import cancel_all
from morpheus_common.steps import Step, reached
from morpheus_common.store.leases import Leases
from morpheus_common.store.outbox import stage
from pymongo import ASCENDING
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import PyMongoError

from morpheus_auth.audit import Audit
from morpheus_auth.documents import ApiKeyDocument, DeletionDocument, Progress, UserDocument
from morpheus_auth.erasing import OwnedLogins, Part
from morpheus_auth.tokens import revoke_logins

log = get_logger(__name__)

LEASE = "deletions"
POLL_SECONDS = 0.5
"""How often what is due is looked for, and whoever waits for a deletion looks how it stands."""
AT_ONCE = 16
"""Deletions that one worker carries on at a time."""
FIRST_RETRY_SECONDS = 0.25
LONGEST_RETRY_SECONDS = 30.0

_ELSEWHERE: Final[tuple[tuple[str, Rpc[EraseUser, UserErased]], ...]] = (
    ("sessions", ERASE_USER_SESSIONS),
    ("automation_settings", ERASE_USER_SETTINGS),
)
"""What other services hold of a user, by what its count is called, in the order in which it is erased."""


class _AlreadyErased(Exception):
    """Nothing is to be written: the account is gone."""


class Deletions:
    """What is asked of the deletion of accounts, and the loop that carries them on. `staged` is called after an event was
    written.
    """

    def __init__(
        self,
        audit: Audit,
        rpc: RpcClient,
        leases: Leases,
        parts: Sequence[Part],
        *,
        clock: Clock,
        staged: Callable[[], None],
    ) -> None:
        self._audit = audit
        self._parts = parts
        self._rpc = rpc
        self._leases = leases
        self._clock = clock
        self._staged = staged
        self._asked: set[str] = set()
        self._nudged = asyncio.Event()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._leads = False
        self._lease_asked_at = float("-inf")

    # what is asked

    async def delete(self, command: DeleteAccount) -> AccountDeletion:
        """Delete an account, and wait up to `command.wait` seconds for it to be complete.

        The same command again joins the deletion. Raises `ApiError` (invalid_token) if there is no such account any more.
        """
        await reached(Step.DELETION_RECEIVED, command.token_sha256)
        loop = asyncio.get_running_loop()
        until = loop.time() + command.wait
        if await DeletionDocument.get(command.token_sha256) is None:
            await self._begin(command)
            await reached(Step.CREDENTIALS_ENDED, command.token_sha256)
        self._nudge(command.token_sha256)
        answer = await self.status(command.token_sha256)
        while answer.status is DeletionState.PENDING and loop.time() < until:
            await asyncio.sleep(min(POLL_SECONDS / 4, max(0.0, until - loop.time())))
            answer = await self.status(command.token_sha256)
        await reached(Step.DELETION_REPLYING, command.token_sha256)
        return answer

    async def status(self, token_sha256: str) -> AccountDeletion:
        """Return how a deletion stands. Raises `ApiError` (deletion_not_found)."""
        deletion = await DeletionDocument.get(token_sha256)
        if deletion is None:
            raise ApiError("deletion_not_found")
        return _answer(deletion)

    async def _begin(self, command: DeleteAccount) -> None:
        """End all credentials of a user, and write that his account is being deleted."""
        now = self._clock()
        deletion = DeletionDocument(id=command.token_sha256, user_id=command.user_id, not_before=now, requested_at=now)

        async def write(session: AsyncClientSession) -> bool:
            await self._audit.append(
                AuditAction.DELETION_BEGUN,
                session=session,
                actor=Actor.USER,
                subject_user=command.user_id,
                facts={"deletion": command.token_sha256},
            )
            ended = await UserDocument.get_pymongo_collection().update_one(
                {"_id": command.user_id, "is_active": True},
                {"$set": {"is_active": False}, "$inc": {"key_guard": 1, "login_guard": 1, "delegation_guard": 1}},
                session=session,
            )
            if not ended.matched_count:
                raise ApiError("invalid_token")
            await revoke_logins({"user_id": command.user_id}, session)
            await self._deactivate_keys(command.user_id, now, session)
            await deletion.insert(session=session)
            await reached(Step.CREDENTIALS_ENDING, deletion.id)
            return True

        async def read_back() -> bool | None:
            return True if await DeletionDocument.get(deletion.id) is not None else None

        await self._audit.transaction(write, read_back=read_back)
        log.info("an account is being deleted", user_id=command.user_id)
        self._staged()

    async def _deactivate_keys(self, user_id: str, now: datetime, session: AsyncClientSession) -> None:
        keys = ApiKeyDocument.get_pymongo_collection()
        active = {"user_id": user_id, "is_active": True}
        found = await keys.find(active, {"version": 1}, session=session).to_list()
        await keys.update_many(
            active, {"$set": {"is_active": False, "deactivated_at": now}, "$inc": {"version": 1}}, session=session
        )
        for key in found:
            await stage(
                KEY_DEACTIVATED,
                KeyChanged(key_id=key["_id"], user_id=user_id, is_active=False),
                entity=key["_id"],
                version=key["version"] + 1,
                at=now,
                session=session,
            )

    # the loop

    def _nudge(self, deletion_id: str) -> None:
        self._asked.add(deletion_id)
        self._nudged.set()

    async def run(self) -> None:
        """Carry deletions on until cancelled: those asked for here at once, all others while the lease is ours.

        The lease spares work. Two workers on the same deletion do each other no harm.
        """
        try:
            while True:
                try:
                    await self._start_what_is_due()
                except PyMongoError as error:
                    log.warning("deletions wait for the database", problem=type(error).__name__)
                try:
                    async with asyncio.timeout(POLL_SECONDS):
                        await self._nudged.wait()
                except TimeoutError:
                    continue
                self._nudged.clear()
        finally:
            await cancel_all(self._running.values())
            await self._leases.retire(LEASE)

    async def _start_what_is_due(self) -> None:
        due = list(self._asked)
        if await self._is_leader():
            deletions = DeletionDocument.get_pymongo_collection().find(
                {"state": Progress.CREDENTIALS_DEAD.value, "$expr": {"$lte": ["$not_before", "$$NOW"]}}, {"_id": 1}
            )
            due += [item["_id"] async for item in deletions.sort("not_before", ASCENDING).limit(2 * AT_ONCE)]
        for deletion_id in due:
            if deletion_id not in self._running and len(self._running) < AT_ONCE:
                self._start(deletion_id)

    async def _is_leader(self) -> bool:
        """Take or renew the lease, now and then; tell whether it is ours."""
        now = asyncio.get_running_loop().time()
        if now - self._lease_asked_at > self._leases.seconds / 3:
            self._leads = await self._leases.acquire(LEASE) is not None
            self._lease_asked_at = now
        return self._leads

    def _start(self, deletion_id: str) -> None:
        self._asked.discard(deletion_id)
        task = asyncio.create_task(self._carry_on(deletion_id))
        self._running[deletion_id] = task
        task.add_done_callback(lambda _: self._running.pop(deletion_id, None))

    async def _carry_on(self, deletion_id: str) -> None:
        try:
            if await self._is_carried_through(deletion_id):
                return
        except (ApiError, PyMongoError) as error:
            log.warning("deletion waits", problem=str(error)[:200])
        except Exception:
            # the outermost edge of a deletion: it must neither end the loop nor be forgotten
            log.exception("deletion failed unexpectedly; it will be carried on")
        try:
            await self._postpone(deletion_id)
        except PyMongoError as error:
            # it stays due, and is looked for again
            log.warning("deletion not postponed", problem=type(error).__name__)

    async def _postpone(self, deletion_id: str) -> None:
        longest = int(LONGEST_RETRY_SECONDS * 1000)
        doublings = {"$pow": [2, {"$min": ["$attempts", 16]}]}
        pause = {"$toInt": {"$min": [longest, {"$multiply": [FIRST_RETRY_SECONDS * 1000, doublings]}]}}
        await DeletionDocument.get_pymongo_collection().update_one(
            {"_id": deletion_id},
            [
                {
                    "$set": {
                        "not_before": {"$dateAdd": {"startDate": "$$NOW", "unit": "millisecond", "amount": pause}},
                        "attempts": {"$add": ["$attempts", 1]},
                    }
                }
            ],
        )

    async def _is_carried_through(self, deletion_id: str) -> bool:
        """Do all that can be done of a deletion now; False if something has to wait.

        Raises the `ApiError` of a service that did not answer.
        """
        deletion = await DeletionDocument.get(deletion_id)
        if deletion is None or deletion.user_id is None:
            return True
        await reached(Step.DELETION_TAKEN, deletion_id)
        user_id = deletion.user_id
        for counted_as, erase in _ELSEWHERE:
            if counted_as in deletion.counts:
                continue
            if erase is ERASE_USER_SESSIONS and not await self._is_closed(user_id, deletion_id):
                return False
            count = (await self._rpc.call(erase, EraseUser(user_id=user_id))).count
            if count is None:
                return False
            await reached(Step.PART_ANSWERED, deletion_id)
            await DeletionDocument.get_pymongo_collection().update_one(
                {"_id": deletion_id}, {"$set": {f"counts.{counted_as}": count}}
            )
            await reached(Step.PART_NOTED, deletion_id)
        # who logged in very often has more of them than a transaction can erase; nobody needs their number
        await OwnedLogins().erase(user_id, None)
        await self._erase_account(deletion_id, user_id)
        return True

    async def _is_closed(self, user_id: str, deletion_id: str) -> bool:
        """Have everything of a user closed on chain; tell whether it is."""
        left = (await self._rpc.call(CLOSE_USER, CloseUser(user_id=user_id))).open
        if left:
            log.info("deletion waits for sessions to be closed on chain", user_id=user_id, sessions=left)
            return False
        await reached(Step.USER_CLOSED, deletion_id)
        return True

    async def _erase_account(self, deletion_id: str, user_id: str) -> None:
        """Erase what auth has of a user and his account, and tell of it."""
        now = self._clock()

        async def write(session: AsyncClientSession) -> bool:
            await self._audit.append(
                AuditAction.DELETION_COMPLETED,
                session=session,
                actor=Actor.SERVICE,
                subject_user=user_id,
                facts={"deletion": deletion_id},
            )
            counts = {part.counted_as: await part.erase(user_id, session) for part in self._parts}
            user: Any = await UserDocument.get_pymongo_collection().find_one_and_delete(
                {"_id": user_id}, session=session
            )
            if user is None:
                # another worker was faster, and has told so
                raise _AlreadyErased
            await DeletionDocument.get_pymongo_collection().update_one(
                {"_id": deletion_id},
                {
                    "$set": {
                        "state": Progress.COMPLETE.value,
                        "user_id": None,
                        "completed_at": now,
                        **{f"counts.{counted_as}": count for counted_as, count in counts.items()},
                    }
                },
                session=session,
            )
            await stage(
                USER_DELETED,
                UserDeleted(user_id=user_id),
                entity=user_id,
                version=user["version"] + 1,
                at=now,
                session=session,
            )
            # from here on nobody can tell whom the log's entries are about
            await self._audit.forget(user_id, session=session)
            await reached(Step.ACCOUNT_ERASING, deletion_id)
            return True

        try:
            await self._audit.transaction(write)
        except _AlreadyErased:
            log.info("account deleted by another worker", user_id=user_id)
        else:
            log.info("account deleted", user_id=user_id)
        await reached(Step.ACCOUNT_ERASED, deletion_id)
        self._staged()


def _answer(deletion: DeletionDocument) -> AccountDeletion:
    if deletion.completed_at is None:
        return AccountDeletion(status=DeletionState.PENDING, requested_at=deletion.requested_at)
    counts = deletion.counts
    return AccountDeletion(
        status=DeletionState.COMPLETE,
        requested_at=deletion.requested_at,
        deleted_at=deletion.completed_at,
        deleted_data=DeletedData(
            sessions=counts.get("sessions", 0),
            api_keys=counts.get("api_keys", 0),
            private_key=bool(counts.get("private_key")),
            automation_settings=bool(counts.get("automation_settings")),
            delegations=counts.get("delegations", 0),
        ),
    )
