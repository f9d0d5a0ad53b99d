"""Letting a session go before it is closed: its worker takes no more prompts and finishes the running one."""

import asyncio
from typing import Any, Final

from morpheus_common.bus.names import session_changed
from morpheus_common.logs import get_logger
from morpheus_common.store.leases import Holder
from morpheus_common.store.mongo import Database
from morpheus_common.store.workers import BEAT_SECONDS, is_alive
from nats.aio.client import Client
from pymongo.errors import PyMongoError

from morpheus_sessions.chat import Chat
from morpheus_sessions.documents import SessionDocument
from morpheus_sessions.journal import Journal
from morpheus_sessions.ownership import Ownership

log = get_logger(__name__)

LEFT_COMMENT: Final = "owned and not current"


class Release:
    """Asks the owner of a session to let go, and lets go when asked."""

    def __init__(
        self, database: Database, journal: Journal, ownership: Ownership, chat: Chat, connection: Client
    ) -> None:
        self._database = database
        self._journal = journal
        self._ownership = ownership
        self._chat = chat
        self._connection = connection

    async def is_released(self, session: SessionDocument) -> bool:
        """Tell whether nobody uses a session any more; if somebody does, ask for it back. Asked again until true."""
        fresh = await self._journal.session(session.id)
        if fresh is None or fresh.owner is None:
            return True
        holder = self._ownership.holder
        if fresh.owner.worker == holder.worker and fresh.owner.boot <= holder.boot:
            return await self._let_go(fresh)
        if not await is_alive(self._database, Holder(fresh.owner.worker, fresh.owner.boot)):
            return True
        await self._connection.publish(session_changed(fresh.owner.worker, fresh.key_id), b"")
        return False

    async def watch(self) -> None:
        """Look at the owned sessions with every sign of life, until cancelled: whom the bus does not reach must not keep one."""
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            try:
                await self.look_again()
            except PyMongoError as error:
                log.warning("owned sessions not looked at", problem=type(error).__name__)

    async def look_again(self, key_id: str | None = None) -> None:
        """Let go of what is not its key's current session any more, of one key or all: another worker may wait for it."""
        await self._ownership.refresh(key_id)
        holder = self._ownership.holder
        # asked of the database: one that a prompt runs in was forgotten earlier, and is let go when that has ended
        query: dict[str, Any] = {"slot": None, "owner.worker": holder.worker, "owner.boot": holder.boot}
        if key_id is not None:
            query["key_id"] = key_id
        left = SessionDocument.get_pymongo_collection().find(query, {"_id": 1}, comment=LEFT_COMMENT)
        async for document in left:
            session = await self._journal.session(document["_id"])
            if session is not None and session.slot is None:
                await self._let_go(session)

    async def _let_go(self, session: SessionDocument) -> bool:
        owned = self._ownership.owned(session.key_id)
        if owned is not None and owned.id == session.id:
            # from here on a prompt claims anew, and finds that the session is not current
            self._ownership.forget(owned)
        if self._chat.runs_in(session.id):
            return False
        await self._ownership.disown(session.id, session.claimed_at)
        return True
