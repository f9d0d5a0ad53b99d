"""How the whole deployment stands, read from the database: every worker reads the same.

What is read is bounded by what is under way (live sessions, operations that have not ended), never by what there ever was:
that is why nothing that has ended is counted. A reading is of one moment of the database, by its clock; with 10,000 live
sessions it takes it 0.3 s (measured).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from morpheus_common.contracts.sessions import SessionState, Slot
from morpheus_common.store.mongo import Database

from morpheus_sessions.capital import as_wei
from morpheus_sessions.documents import (
    LIVE_STATES,
    FindingDocument,
    OperationDocument,
    OperationKind,
    OperationState,
    SessionDocument,
    WalletDocument,
)
from morpheus_sessions.invariants import Broken, Snapshot, live_rules, violations
from morpheus_sessions.journal import IN_HAND
from morpheus_sessions.limits import LIVE_AMOUNT
from morpheus_sessions.reconcile import Act

LIVE: Final = [state.value for state in LIVE_STATES]
STAKED: Final = {
    SessionState.OPENING.value: "opening",
    SessionState.ACTIVE.value: "open",
    SessionState.PARKED.value: "parked",
    SessionState.CLOSING.value: "closing",
}
"""What a stake is called, by the state of its session."""
FOREIGN, LOST, SUSPECT = "foreign", "lost", "suspect"
STANDING: Final = {Act.REPORT_FOREIGN: FOREIGN, Act.REPORT_LOST: LOST, Act.SUSPECT: SUSPECT}
"""Findings that stand as long as what was found does; of the others the last complete pass tells how often it made them."""


@dataclass(frozen=True, slots=True)
class InHand:
    """Operations of one kind in one state: how many, and how old the oldest is that is not stuck (seconds)."""

    count: int = 0
    oldest: float = 0.0


@dataclass(frozen=True, slots=True)
class Figures:
    """One reading. `stake` in wei by kind, `at_risk` the sum of all; `operations` by kind and state; `findings` by router and
    finding.

    `queue`: opens and approves that no wallet has taken. `stuck`: closes whose providers (`stuck_providers` of them) give no
    closing report. `pass_ages`: seconds since the last complete pass, by router. `overlaps`: by router, how often ever a
    chain call was begun although another of ours might still have run. `violations` by invariant.
    """

    sessions: Mapping[str, int] = field(default_factory=dict)
    quarantined: int = 0
    stake: Mapping[str, int] = field(default_factory=dict)
    operations: Mapping[tuple[str, str], InHand] = field(default_factory=dict)
    queue: int = 0
    stuck: int = 0
    stuck_providers: int = 0
    findings: Mapping[tuple[str, str], int] = field(default_factory=dict)
    pass_ages: Mapping[str, float] = field(default_factory=dict)
    overlaps: Mapping[str, int] = field(default_factory=dict)
    violations: Mapping[str, int] = field(default_factory=dict)


class FiguresReader:
    """Reads the figures; of routers and their wallets, those that are configured (by name)."""

    def __init__(self, database: Database, *, routers: Collection[str], deployment: int) -> None:
        self._database = database
        self._routers = tuple(routers)
        self._deployment = deployment

    async def read(self) -> Figures:
        """Make one reading. Raises `PyMongoError`."""
        client = self._database.client
        async with client.start_session(snapshot=True) as session:
            snapshot = Snapshot(self._database, session)
            answer = await client.admin.command("hello", codec_options=client.codec_options)
            now: datetime = answer["localTime"]
            live = await self._live(snapshot, now)
            operations = await self._operations(snapshot)
            wallets = await self._wallets(snapshot)
            findings = await self._findings(snapshot, live, wallets)
            counted = Broken(
                misplaced=_sum(live, "misplaced"),
                untagged=_sum(live, "untagged"),
                restless=_sum(live, "restless"),
                lost=sum(findings[router, LOST] for router in self._routers),
                undone=sum((item.get("complete_pass") or {}).get("undone", 0) for item in wallets),
            )
            stuck = _sum(operations, "stuck")
            return Figures(
                sessions={state: _sum(live, "count", state=state) for state in LIVE},
                quarantined=_sum(live, "quarantined"),
                stake=await self._stake(snapshot, live, now),
                operations=_in_hand(operations, now),
                queue=_sum(operations, "unbound"),
                stuck=stuck,
                stuck_providers=await self._stuck_providers(snapshot) if stuck else 0,
                findings=findings,
                pass_ages={
                    item["router"]: (now - item["complete_pass"]["at"]).total_seconds()
                    for item in wallets
                    if item.get("complete_pass")
                },
                overlaps={item["router"]: int(item.get("overlaps") or 0) for item in wallets},
                violations=await violations(
                    counted,
                    snapshot,
                    now=now,
                    wallets=[item["_id"] for item in wallets],
                    deployment=self._deployment,
                ),
            )

    async def _live(self, snapshot: Snapshot, now: datetime) -> list[dict[str, Any]]:
        """Return the sessions that are live, or stand in a slot all the same, by state and router."""
        which = {"$or": [{"state": {"$in": LIVE}}, {"slot": {"$in": [slot.value for slot in Slot]}}]}
        group = {
            "_id": {"state": "$state", "router": "$router"},
            "count": {"$sum": 1},
            "stake": {"$sum": LIVE_AMOUNT},
            "quarantined": _counting({"$gt": ["$quarantined_until", now]}),
            "absent": _counting({"$gt": ["$absences", 0]}),
            **{name: _counting(is_so) for name, is_so in live_rules(self._deployment).items()},
        }
        return await snapshot.aggregate(SessionDocument, [{"$match": which}, {"$group": group}])

    async def _stake(self, snapshot: Snapshot, live: Sequence[Mapping[str, Any]], now: datetime) -> dict[str, int]:
        which = {"held_until": {"$gt": now}, "state": {"$nin": LIVE}}
        group = {"_id": "$state", "held": {"$sum": "$held"}}
        ended = await snapshot.aggregate(SessionDocument, [{"$match": which}, {"$group": group}], hint="on_hold")
        held = {item["_id"]: as_wei(item["held"]) for item in ended}
        stake = {
            kind: sum(as_wei(item["stake"]) for item in live if item["_id"]["state"] == state)
            for state, kind in STAKED.items()
        }
        stake["held"] = held.get(SessionState.CLOSED.value, 0)
        stake["given_up"] = sum(held.values()) - stake["held"]
        return stake | {"at_risk": sum(stake.values())}

    async def _operations(self, snapshot: Snapshot) -> list[dict[str, Any]]:
        is_unbound = [
            {"$eq": ["$state", OperationState.PENDING.value]},
            {"$ne": ["$kind", OperationKind.CLOSE.value]},
            {"$eq": [{"$ifNull": ["$wallet", None]}, None]},
        ]
        is_stuck = {"$eq": ["$stuck", True]}
        began = {"$ifNull": ["$sent_at", {"$ifNull": ["$queued_at", "$created_at"]}]}
        group = {
            "_id": {"state": "$state", "kind": "$kind"},
            "count": {"$sum": 1},
            # a stuck close is counted, and tried seldom: for as long as it is, it would hide how long the others wait
            "since": {"$min": {"$cond": [is_stuck, None, began]}},
            "unbound": _counting({"$and": is_unbound}),
            "stuck": _counting(is_stuck),
        }
        return await snapshot.aggregate(OperationDocument, [{"$match": {"state": {"$in": IN_HAND}}}, {"$group": group}])

    async def _stuck_providers(self, snapshot: Snapshot) -> int:
        session = {
            "from": SessionDocument.get_collection_name(),
            "localField": "session",
            "foreignField": "_id",
            "as": "session",
        }
        return await snapshot.count(
            OperationDocument,
            [
                {"$match": {"state": {"$in": IN_HAND}, "stuck": True}},
                {"$lookup": session},
                {"$group": {"_id": {"$first": "$session.provider"}}},
            ],
        )

    async def _wallets(self, snapshot: Snapshot) -> list[dict[str, Any]]:
        fields = {"router": 1, "overlaps": 1, "complete_pass": 1}
        return await snapshot.aggregate(
            WalletDocument, [{"$match": {"router": {"$in": self._routers}}}, {"$project": fields}]
        )

    async def _findings(
        self,
        snapshot: Snapshot,
        live: Sequence[Mapping[str, Any]],
        wallets: Sequence[Mapping[str, Any]],
    ) -> dict[tuple[str, str], int]:
        group = {"_id": {"router": "$router", "kind": "$kind"}, "count": {"$sum": 1}}
        kept = {
            (item["_id"]["router"], item["_id"]["kind"]): int(item["count"])
            for item in await snapshot.aggregate(FindingDocument, [{"$group": group}])
        }
        made = {item["router"]: (item.get("complete_pass") or {}).get("found", {}) for item in wallets}
        findings: dict[tuple[str, str], int] = {}
        for router in self._routers:
            for act in Act:
                if act not in STANDING:
                    findings[router, act.value] = int(made.get(router, {}).get(act.value, 0))
            for finding in (FOREIGN, LOST):
                findings[router, finding] = kept.get((router, finding), 0)
            findings[router, SUSPECT] = sum(int(i["absent"]) for i in live if i["_id"].get("router") == router)
        return findings


def _counting(is_so: Any) -> dict[str, Any]:
    return {"$sum": {"$cond": [is_so, 1, 0]}}


def _sum(groups: Sequence[Mapping[str, Any]], name: str, **of: str) -> int:
    return sum(int(item[name]) for item in groups if of.items() <= item["_id"].items())


def _in_hand(groups: Sequence[Mapping[str, Any]], now: datetime) -> dict[tuple[str, str], InHand]:
    known = {
        (item["_id"]["kind"], item["_id"]["state"]): InHand(
            int(item["count"]), max(0.0, (now - item["since"]).total_seconds()) if item["since"] else 0.0
        )
        for item in groups
    }
    return {
        (kind.value, state): known.get((kind.value, state), InHand()) for kind in OperationKind for state in IN_HAND
    }
