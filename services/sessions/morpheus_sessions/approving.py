"""Keeping the allowance of one wallet: what users ask for, and a float, so that an open needs one transaction only.

The allowance is shared by all users, and the contract takes from it with every open. So it is only ever raised: to the
most of what is asked for, what it is, and the float. An approve *sets* it; a node that lags could show it lower than it is,
so a reading counts only at or past the height at which we set it last. No answer is taken for a failure: whether an approve
was done is read from the allowance. To send it again is safe, because it sets the same once more.
"""

import asyncio

from morpheus_common.errors import ApiError
from morpheus_common.logs import get_logger, mask_secrets
from pymongo.errors import PyMongoError

from morpheus_sessions.allowances import Allowances
from morpheus_sessions.catalogue import CatalogueCopy
from morpheus_sessions.documents import OperationDocument, OperationState, wei
from morpheus_sessions.journal import SETTLED_BLOCKS, Journal
from morpheus_sessions.router import ROUTER_ERRORS, Router
from morpheus_sessions.settings import SessionsSettings
from morpheus_sessions.turn import NotOurTurn, Turn

log = get_logger(__name__)

FLOAT_SECONDS = 5.0
"""How often the float is looked at."""
USUAL_SECONDS = 3_600
"""The length of a usual session."""
UNSENT_TRIES = 10
"""So often the router is asked before an approve that was never sent is given up."""
LOOK_AGAIN_SECONDS = 2.0
"""A block of the chain: so soon an approve without a clear answer is looked for."""


class Approving:
    """Raises the allowance of the wallet behind one router."""

    def __init__(
        self,
        router: Router,
        journal: Journal,
        catalogue: CatalogueCopy,
        settings: SessionsSettings,
        turn: Turn,
    ) -> None:
        self._router = router
        self._journal = journal
        self._catalogue = catalogue
        self._settings = settings
        self._turn = turn
        self._allowances = Allowances(router)

    @property
    def least(self) -> int:
        """What the allowance shall be at least, in wei: so many usual stakes. 0 while none can be worked out."""
        try:
            return self._settings.allowance_stakes * self._catalogue.stake(self._catalogue.usual_price(), USUAL_SECONDS)
        except ApiError:
            return 0

    @property
    def spender(self) -> str:
        """The contract that may take stakes: the router's own. Raises `ApiError` if the operator has named another."""
        wanted = self._settings.diamond_contract_address
        if wanted is not None and wanted.lower() != self._router.diamond:
            log.critical("DIAMOND_CONTRACT_ADDRESS is not the router's contract", router=self._router.name)
            raise ApiError("approval_failed", "The gateway and its router name different contracts.")
        return self._router.diamond

    async def carry_on(self, operation: OperationDocument) -> None:
        """Carry an approve on: done when the allowance is what was asked for, however that came about.

        Raises one of `ROUTER_ERRORS`, `NotOurTurn`: it is carried on later.
        """
        asked = wei(operation.amount) or 0
        try:
            spender = self.spender
        except ApiError as error:
            await self._journal.end_approve(operation, OperationState.FAILED, error)
            return
        if await self._is_done(operation, asked):
            return
        if operation.sent_at is None and operation.attempts >= UNSENT_TRIES:
            await self._journal.end_approve(
                operation, OperationState.FAILED, ApiError("service_unavailable", retry_after=60)
            )
            return
        if operation.sent_at is not None and not await self._may_send_again(operation):
            return
        sent, tx = operation, None
        async with self._turn.call(operation.id):
            # inside the turn: no open of ours takes from it between here and there, and no other approve was faster
            now = await self._allowances.read(spender)
            if now < asked:
                block = await self._router.latest_block()
                sent = await self._journal.record_approve(operation, block)
                tx = await self._call(spender, self._rounded(max(asked, self.least, now)), sent)
        if not await self._is_done(sent, asked, tx=tx):
            await self._journal.postpone(sent, retry_in=LOOK_AGAIN_SECONDS)

    def _rounded(self, amount: int) -> int:
        """Return an amount (wei) rounded up to whole floats, so that small steps are one transaction; never past what any
        user may ask for.
        """
        least = self.least
        rounded = -(-amount // least) * least if least else amount
        return max(amount, min(rounded, self._settings.approval_limit))

    async def _may_send_again(self, operation: OperationDocument) -> bool:
        """Tell whether an approve that was sent is to be sent again; if not now, it is looked at later, or has ended."""
        if await self._journal.is_overdue(operation, self._settings.abandon_after):
            log.error("an allowance could not be raised", operation_id=operation.id)
            await self._journal.end_approve(operation, OperationState.ABANDONED, ApiError("approval_failed"))
            return False
        if await self._router.latest_block() < operation.sent_block + SETTLED_BLOCKS:
            # it may be on its way
            await self._journal.postpone(operation, retry_in=LOOK_AGAIN_SECONDS, counted=False)
            return False
        return True

    async def _is_done(self, operation: OperationDocument, asked: int, *, tx: str | None = None) -> bool:
        """Tell whether the allowance is what was asked for, and record that it is."""
        if await self._allowances.read(self.spender) < asked:
            return False
        tx = tx or operation.tx or await self._allowances.last_transaction()
        await self._journal.end_approve(operation, OperationState.DONE, None, tx=tx)
        log.info("allowance raised", operation_id=operation.id, amount=str(asked))
        return True

    async def _call(self, spender: str, amount: int, operation: OperationDocument | None) -> str | None:
        """Set the allowance; return the transaction, None if there was no clear answer."""
        try:
            tx = await self._router.approve(spender, amount, timeout=self._settings.chain_timeout)
        except ROUTER_ERRORS as error:
            log.warning(
                "approve not clearly answered", router=self._router.name, problem=mask_secrets(str(error))[:300]
            )
            if operation is not None:
                await self._journal.append_fact(operation.id, "approve not clearly answered")
            return None
        await self._allowances.note(tx, await self._router.latest_block())
        if operation is not None:
            await self._journal.append_fact(operation.id, "approved", tx=tx)
        return tx

    # the float

    async def keep_float(self) -> None:
        """Keep the allowance over the float until cancelled, whenever the wallet is ours."""
        failures = 0
        while True:
            await asyncio.sleep(FLOAT_SECONDS if not failures else self._settings.backoff(failures))
            if not self._turn.holds or not self._settings.allowance_stakes:
                continue
            try:
                failures = 0 if await self.raise_to_float() else failures + 1
            except NotOurTurn:
                continue
            except ApiError as error:
                failures += 1
                log.warning("no float", router=self._router.name, problem=error.code)
            except (PyMongoError, *ROUTER_ERRORS) as error:
                failures += 1
                log.warning("allowance not looked at", router=self._router.name, problem=str(error)[:200])
            except Exception:
                # the outermost edge of this loop: what one answer brings about must not end all wallets' loops
                failures += 1
                log.exception("float not kept; it is looked at again as always", router=self._router.name)

    async def raise_to_float(self) -> bool:
        """Raise the allowance if it is under the float; return whether it is over it now.

        It is raised to twice the float, so that it is not raised again with every open.
        """
        least = self.least
        if not least or await self._allowances.read(self.spender) >= least:
            return True
        async with self._turn.call(f"float of {self._router.name}"):
            now = await self._allowances.read(self.spender)
            if now < least:
                log.info("allowance is raised", router=self._router.name, before=str(now), amount=str(2 * least))
                await self._call(self.spender, 2 * least, None)
        return await self._allowances.read(self.spender) >= least
