"""The simulated router and its chain, as a sweep sees and strikes them."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx2
from morpheus_devstack.waiting import poll

REQUEST_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class ChainRow:
    """A session as the chain has it. Wei; Unix seconds of chain time, `closed_at` 0 while it is open."""

    id: str
    bid_id: str
    stake: int
    opened_at: int
    ends_at: int
    closed_at: int

    @property
    def is_open(self) -> bool:
        return self.closed_at == 0


@dataclass(frozen=True, slots=True)
class ChainState:
    """What the simulator says of its chain and of the calls it had. Wei."""

    sessions: tuple[ChainRow, ...]
    mor: int
    held: int
    most_calls_at_once: int
    most_prompts_at_once: int
    now: float


class Chain:
    """The controls of one simulator. Raises `httpx2.HTTPError` while it is down."""

    def __init__(self, url: str, user: str, password: str) -> None:
        self._http = httpx2.AsyncClient(base_url=url, auth=(user, password), timeout=REQUEST_SECONDS)

    async def aclose(self) -> None:
        await self._http.aclose()

    async def state(self) -> ChainState:
        told = (await self._http.get("/sim/state")).json()
        return ChainState(
            sessions=tuple(
                ChainRow(row["Id"], row["BidID"], int(row["Stake"]), row["OpenedAt"], row["EndsAt"], row["ClosedAt"])
                for row in told["sessions"]
            ),
            mor=int(told["mor"]),
            held=sum(int(hold["amount"]) for hold in told["held"]),
            most_calls_at_once=told["max_concurrent_chain_calls"],
            most_prompts_at_once=told["max_unfinished_prompts_of_a_session"],
            now=told["now"],
        )

    async def is_up(self) -> bool:
        try:
            return (await self._http.get("/healthcheck")).status_code == 200
        except httpx2.HTTPError:
            return False

    async def until_up(self, *, seconds: float) -> bool:
        return await poll(self.is_up, seconds=seconds)

    async def arm(
        self, kind: str, action: str, *, count: int | None = 1, probability: float = 1.0, **params: Any
    ) -> int:
        """Arm a fault; return its number."""
        fault = {"kind": kind, "action": action, "count": count, "probability": probability, "params": params}
        return int((await self._control("/sim/faults", **fault))["id"])

    async def disarm(self, fault: int | None = None) -> None:
        """Remove a fault, or all; what hangs in it goes on."""
        await self._http.delete("/sim/faults" if fault is None else f"/sim/faults/{fault}")

    async def until_held(self, fault: int) -> None:
        """Wait until a call hangs in a fault."""
        while not await self._holds(fault):  # noqa: ASYNC110 - another process; it sets no event
            await asyncio.sleep(0.02)

    async def _holds(self, fault: int) -> bool:
        told = (await self._http.get("/sim/faults")).json()
        return any(item["id"] == fault and item["waiting"] for item in [*told["armed"], *told["striking"]])

    async def has_struck(self, fault: int) -> bool:
        """Tell whether a fault has struck at least once."""
        told = (await self._http.get("/sim/faults")).json()
        return all(item["id"] != fault or item["struck"] for item in told["armed"])

    async def strikes(self, fault: int) -> int:
        """How often an armed fault has struck."""
        told = (await self._http.get("/sim/faults")).json()
        return next(int(item["struck"]) for item in told["armed"] if item["id"] == fault)

    async def release(self) -> int:
        """Have all late transactions mined; return how many there were."""
        return len((await self._control("/sim/release"))["released"])

    async def advance(self, seconds: float) -> None:
        await self._control("/sim/advance", seconds=seconds)

    async def reorganise(self, blocks: int, *, others: int) -> None:
        """Undo the last blocks; what was in them is mined again after so many opens of other wallets."""
        await self._control("/sim/reorg", blocks=blocks, others=others)

    async def approve(self, amount: int) -> None:
        """Allow the contract to take so much (wei), past the gateway."""
        config = (await self._http.get("/config")).json()["Config"]
        spender = config["Marketplace"]["DiamondContractAddress"]
        answer = await self._http.post("/blockchain/approve", params={"spender": spender, "amount": str(amount)})
        answer.raise_for_status()

    async def wipe(self) -> None:
        await self._control("/sim/wipe")

    async def set_money(self, **wei: int) -> None:
        await self._control("/sim/balance", **{name: str(amount) for name, amount in wei.items()})

    async def set_bid(self, bid_id: str, *, deleted: bool) -> None:
        await self._control("/sim/bids", id=bid_id, deleted=deleted)

    async def _control(self, path: str, **body: Any) -> Mapping[str, Any]:
        answer = await self._http.post(path, json=body)
        answer.raise_for_status()
        told: Mapping[str, Any] = answer.json()
        return told

    # the router's own routes

    async def bids(self, model_id: str) -> list[str]:
        """The active bids of a model."""
        told = (await self._http.get(f"/blockchain/models/{model_id}/bids/active")).json()
        return [bid["Id"] for bid in told["bids"]]

    async def models(self) -> list[str]:
        """The models that answer prompts."""
        told = (await self._http.get("/blockchain/models")).json()
        return [model["Id"] for model in told["models"] if model["ModelType"] == "LLM"]

    async def open_by_hand(self, bid_id: str, seconds: int) -> str:
        """Open a session past the gateway: one without a tag of ours. Return its id."""
        answer = await self._http.post(f"/blockchain/bids/{bid_id}/session", json={"sessionDuration": seconds})
        answer.raise_for_status()
        return str(answer.json()["sessionID"])
