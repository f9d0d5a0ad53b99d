"""`morpheus up --routers 2`: opens are spread over both wallets, and a router that dies fails none of them."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pymongo

from tests.e2e.house import Account, House
from tests.e2e.stack import running_stack


def proxy_router(house: House) -> str:
    return str(house.http.get(f"{house.stack.gateway_url}/health").json()["components"]["proxy_router"]["status"])


def open_at_once(house: House, account: Account, count: int) -> list[int]:
    """Open a session with each of so many new keys at the same time; return the statuses."""
    accounts = [house.new_key(account) for _ in range(count)]

    def open_one(one: Account) -> int:
        wish = {"model_id": house.llm_id}
        return house.http.post("session/modelsession", params=wish, headers=one.by_key, timeout=120).status_code

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(open_one, accounts))


def routers_of_opens(house: House) -> set[str]:
    with pymongo.MongoClient[dict[str, Any]](house.stack.mongo_url) as client:
        return set(client["sessions"]["operations"].distinct("router", {"kind": "open", "state": "done"}))


def test_opens_are_spread_over_the_wallets_and_go_on_when_a_router_dies(tmp_path: Path) -> None:
    with running_stack(tmp_path / "stack", "--routers", "2", "--no-supervise") as stack, House.of(stack) as house:
        house.eventually(lambda: proxy_router(house) == "healthy", seconds=30, what="two routers")
        account = house.new_account(automation=False)
        assert open_at_once(house, account, 5) == [200] * 5
        assert routers_of_opens(house) == {"router", "router-2"}

        os.kill(stack.pid("simulator-2"), signal.SIGKILL)
        # at once, before anybody knows of it
        assert open_at_once(house, account, 4) == [200] * 4
        house.eventually(lambda: proxy_router(house) == "degraded", seconds=30, what="word of the router that died")
        assert house.http.get(f"{stack.gateway_url}/health").json()["status"] == "degraded"
