"""What operators ask over the bus: decode, call, answer."""

from faststream.nats import NatsBroker
from morpheus_common.bus.names import User
from morpheus_common.contracts import operator as asked
from morpheus_common.contracts.base import Empty
from morpheus_common.contracts.events import DIGEST_EVENT, DigestEvent

from morpheus_sessions.operator import Operator

AT_ONCE = 4
"""Each may read a whole listing from a router; users' questions come first."""


def subscribe_operator(broker: NatsBroker, operator: Operator) -> None:
    """Declare the handlers of operators' questions and commands."""

    @broker.subscriber(asked.WALLETS.subject, queue=User.SESSIONS, max_workers=AT_ONCE)
    async def wallets(_: Empty) -> asked.OperatedWallets:
        return await operator.wallets()

    @broker.subscriber(asked.LIST_SESSIONS.subject, queue=User.SESSIONS, max_workers=AT_ONCE)
    async def list_sessions(question: asked.ListSessions) -> asked.OperatedSessions:
        return await operator.sessions(question)

    @broker.subscriber(asked.READ_CHAIN.subject, queue=User.SESSIONS, max_workers=AT_ONCE)
    async def read_chain(question: asked.ReadChain) -> asked.ChainPage:
        return await operator.chain(question)

    @broker.subscriber(asked.LOOK_AT.subject, queue=User.SESSIONS, max_workers=AT_ONCE)
    async def look_at(question: asked.LookAt) -> asked.OnChain:
        return await operator.look(question)

    @broker.subscriber(asked.DOUBLED_RECORDS.subject, queue=User.SESSIONS, max_workers=AT_ONCE)
    async def doubled_records(_: Empty) -> asked.DoubledRecords:
        return await operator.doubled()

    @broker.subscriber(asked.PLAN_PASS.subject, queue=User.SESSIONS, max_workers=AT_ONCE)
    async def plan_pass(question: asked.PlanPass) -> asked.PlannedPass:
        return await operator.plan(question)

    @broker.subscriber(asked.MAKE_PASS.subject, queue=User.SESSIONS, max_workers=AT_ONCE)
    async def make_pass(command: asked.MakePass) -> asked.PassMade:
        return await operator.make_pass(command)

    @broker.subscriber(DIGEST_EVENT[User.SESSIONS].subject, queue=User.SESSIONS, max_workers=AT_ONCE)
    async def digest_event(command: DigestEvent) -> Empty:
        await operator.digest(command)
        return Empty()

    @broker.subscriber(asked.ADOPT_LOST.subject, queue=User.SESSIONS, max_workers=AT_ONCE)
    async def adopt_lost(command: asked.AdoptLost) -> asked.OperatedSession:
        return await operator.adopt(command)

    @broker.subscriber(asked.CLOSE_OURS.subject, queue=User.SESSIONS, max_workers=AT_ONCE)
    async def close_ours(command: asked.CloseOurs) -> asked.CloseQueued:
        return await operator.close(command)
