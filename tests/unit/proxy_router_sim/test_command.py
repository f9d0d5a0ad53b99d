import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import aiohttp

from tests.unit.proxy_router_sim.harness import until


async def start(*arguments: str) -> tuple[asyncio.subprocess.Process, dict[str, str]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "proxy_router_sim", "--port", "0", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PROXY_ROUTER_PASSWORD": "secret"},
    )  # fmt: skip
    assert process.stdout is not None
    return process, json.loads(await asyncio.wait_for(process.stdout.readline(), 20))


async def test_the_command_says_where_it_listens_ends_on_a_signal_and_remembers(tmp_path: Path) -> None:
    state = ["--state", str(tmp_path / "world" / "state.json"), "--block-time", "0.01"]
    headers = {"Authorization": aiohttp.encode_basic_auth("admin", "secret")}
    process, where = await start(*state)
    async with aiohttp.ClientSession(where["url"], headers=headers) as http:
        async with http.get("/wallet") as response:
            assert await response.json() == {"address": where["wallet"]}
        path = f"/blockchain/approve?spender={where['diamond']}&amount=77"
        async with http.post(path) as response:
            assert response.status == 200
        await http.post("/sim/faults", json={"kind": "wallet", "action": "hang"})
        hanging = asyncio.create_task(http.get("/wallet"))

        async def striking() -> object:
            async with http.get("/sim/faults") as response:
                return (await response.json())["striking"]

        await until(striking)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 5) == 0
        await asyncio.gather(hanging, return_exceptions=True)

    process, where = await start(*state)
    async with aiohttp.ClientSession(where["url"], headers=headers) as http:
        async with http.get(f"/blockchain/allowance?spender={where['diamond']}") as response:
            assert await response.json() == {"allowance": "77"}
    process.send_signal(signal.SIGINT)
    assert await asyncio.wait_for(process.wait(), 5) == 0
