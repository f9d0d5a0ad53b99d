"""Opening sessions over several routers, beside one router that is called by hand, one open after the other."""

import asyncio
import time
from typing import Any

import httpx2

from benchmarks.findings import Finding, Outcome, Verdict, judged
from benchmarks.lab import Lab
from benchmarks.ours import MUCH_WEI, PASSWORD, Ours, simulator, slow_chain

LEAST = 0.9
OPEN_SECONDS = 120.0
MODEL = "llama-3.3-70b"
"""The simulated marketplace's first model that chats."""


async def measure(lab: Lab) -> Outcome:
    """Sessions a second of R routers through us, and of one by hand, at the same time: waiting for blocks costs no CPU."""
    form = lab.form
    wanted = form.routers * form.opens_each
    chosen = ("--block-time", str(form.block), "--mor", str(10**10))
    folder = lab.folder / "opening"
    with (
        slow_chain(folder, lab.morpheus, form.routers, form.block) as ours,
        simulator(folder / "by-hand", *chosen) as alone,
    ):
        lab.say(
            f"{wanted} opens over {form.routers} routers, and {form.opens_each} by hand, blocks of {form.block:g} s"
        )
        await _until_all_routers_are_led(ours, form.routers)
        by_hand = asyncio.create_task(_by_hand(alone, form.opens_each))
        seconds = await ours.open_sessions(wanted)
        rate, hand_rate = wanted / seconds, form.opens_each / await by_hand
        states = [await _state(router) for router in ours.routers()]
    share = rate / (hand_rate * form.routers)
    conflicts = sum(int(state["nonces"]["conflicts"]) for state in states)
    is_whole = form.block >= 2.0
    findings = [
        Finding(
            "opening_rate",
            f"{wanted} opens, blocks of {form.block:g} s, {form.routers} routers",
            f"≥ {LEAST:g} × {form.routers} × one router by hand",
            f"{share:.2f} × ({rate:.2f} a second; by hand {hand_rate:.2f})",
            judged(share >= LEAST) if is_whole else Verdict.NOT_JUDGED,
            "" if is_whole else "blocks are shorter than the bar's",
        ),
        Finding("opening_conflicts", "nonce conflicts meanwhile", "0", str(conflicts), judged(conflicts == 0)),
    ]
    opened = [int(state["opens_total"]) for state in states]
    return Outcome(findings, {"per_second": rate, "by_hand_per_second": hand_rate, "opened_by_router": opened})


async def _until_all_routers_are_led(ours: Ours, routers: int) -> None:
    """Wait until a worker looks after every wallet: what comes before could only wait."""
    async with httpx2.AsyncClient(base_url=ours.gateway_url, timeout=5, trust_env=False) as http:
        for _ in range(300):
            components = (await http.get("/health")).json()["components"]
            if components["proxy_router"]["status"] == "healthy":
                return
            await asyncio.sleep(0.1)
    raise RuntimeError(f"the {routers} routers were not healthy within 30 s")


async def _by_hand(router: str, count: int) -> float:
    """Open sessions at one router, each when the one before is open; return the seconds that took.

    The allowance is raised before: a router raises it by a block's wait for each open, and a caller with sense does not let it.
    """
    async with httpx2.AsyncClient(
        base_url=router, auth=("admin", PASSWORD), timeout=OPEN_SECONDS, trust_env=False
    ) as http:
        spender = (await http.get("/config")).json()["Config"]["Marketplace"]["DiamondContractAddress"]
        (await http.post(f"/blockchain/approve?spender={spender}&amount={MUCH_WEI}")).raise_for_status()
        models = (await http.get("/blockchain/models")).json()["models"]
        model = next(model["Id"] for model in models if model["Name"] == MODEL)
        began = time.monotonic()
        for _ in range(count):
            answer = await http.post(f"/blockchain/models/{model}/session", json={"sessionDuration": 3_600})
            if "sessionID" not in answer.json():
                raise RuntimeError(f"the router did not open a session: {answer.text[:200]}")
        return time.monotonic() - began


async def _state(router: str) -> dict[str, Any]:
    async with httpx2.AsyncClient(base_url=router, timeout=30, trust_env=False) as http:
        state: dict[str, Any] = (await http.get("/sim/state")).json()
        return state
