"""Several routers, one wallet each: who is used, who is not, and what happens when one goes."""

import asyncio
import json
from typing import Any

import pytest
from morpheus_common.errors import ApiError
from morpheus_sessions.worker import serve

from tests.service.sessions.fleet import all_ended, coming_and_going, fleet
from tests.service.sessions.house import House, until
from tests.service.sessions.test_operator import sessions

QUICK: dict[str, Any] = {"retry_seconds": 0.2}


async def test_two_routers_with_one_wallet_are_one_router(house: House) -> None:
    async with fleet(house, 2, wallet_seed=101) as two, house.worker(**two.settings()) as parts:
        for number in range(4):
            assert (await two.ask(f"k{number}")).session is not None

        async def told() -> bool:
            return any("wallet is that of" in state for state in parts.routers.fleet.states.values())

        await until(told)
        states = parts.routers.fleet.states
        (used,) = [name for name, state in states.items() if state == "ok"]
        assert sorted(await two.opened()) == [0, 4]
        assert {item["router"] for item in await house.operations(kind="open")} == {used}


async def test_a_router_that_comes_back_with_another_wallet_is_not_used_for_opens(house: House) -> None:
    async with fleet(house, 2) as two:
        async with house.worker(**two.settings()) as parts:
            await until(lambda: _all_ok(parts))
        # the names of the two are exchanged: each has another's wallet
        exchanged = two.settings(r1={"url": two.simulators[1].url}, r2={"url": "http://127.0.0.1:9"})
        async with house.worker(**exchanged) as parts:

            async def refused() -> bool:
                return "stands for the wallet" in parts.routers.fleet.states["r1"]

            await until(refused)
            assert not parts.routers.healthy
            outcome = await two.ask("k1", wait=1.5)
            assert outcome.session is None
        assert await two.opened() == [0, 0]


async def test_another_deployment_number_would_make_our_stakes_a_strangers_and_is_refused(house: House) -> None:
    async with fleet(house, 1) as one:
        async with house.worker(**one.settings()):
            assert (await one.ask("k1")).session is not None
        async with house.worker(**one.settings(), deployment_number=8) as parts:

            async def refused() -> bool:
                return "Set DEPLOYMENT_NUMBER to 7 again" in parts.routers.fleet.states["r1"]

            await until(refused)
            assert (await one.ask("k2", wait=1.5)).session is None
        async with house.worker(**one.settings()):
            assert (await one.ask("k3")).session is not None
            assert (await house.gateway.close("k1")).confirmed


async def _all_ok(parts: Any) -> bool:
    return set(parts.routers.fleet.states.values()) == {"ok"}


async def test_a_wallet_that_is_changed_under_a_running_worker_is_seen(house: House) -> None:
    async with fleet(house, 2) as two, house.worker(**two.settings()) as parts:
        await until(lambda: _all_ok(parts))
        two.simulators[0]._router.simulator.node.wallet = "0x" + "77" * 20

        async def refused() -> bool:
            return "stands for the wallet" in parts.routers.fleet.states["r1"]

        await until(refused)
        for number in range(3):
            assert (await two.ask(f"k{number}")).session is not None
        assert await two.opened() == [0, 3]
        assert parts.routers.degraded


async def test_a_router_that_is_away_from_the_start_takes_no_other_down(house: House) -> None:
    async with fleet(house, 3) as three:
        # the first is the one whose marketplace is read
        settings = three.settings(r1={"url": "http://127.0.0.1:9"})
        async with house.worker(**settings) as parts:
            for number in range(4):
                assert (await three.ask(f"k{number}")).session is not None

            async def seen() -> bool:
                return parts.routers.fleet.states == {"r1": "away", "r2": "ok", "r3": "ok"}

            await until(seen)
            assert parts.routers.healthy
            assert parts.routers.degraded
        opened = await three.opened()
    assert opened[0] == 0
    assert sum(opened) == 4


async def test_a_router_that_refuses_our_credentials_is_given_no_opens(house: House) -> None:
    async with fleet(house, 2) as two, house.worker(**two.settings(r2={"password": "wrong"})) as parts:
        for number in range(4):
            assert (await two.ask(f"k{number}")).session is not None
        assert await two.opened() == [4, 0]
        assert parts.routers.fleet.states == {"r1": "ok", "r2": "away"}
        said = await sessions(house, "routers", "--json")
    assert said.code == 0, said.err
    assert [(line["router"], line["state"]) for line in said.lines] == [("r1", "ok"), ("r2", "away")]
    assert said.lines[0]["wallet"]
    assert said.lines[1]["problem"]


async def test_a_router_that_goes_away_leaves_its_share_to_the_others_and_gets_it_again(house: House) -> None:
    async with fleet(house, 1) as one, coming_and_going(wallet_seed=200) as gone:
        two = one.settings()
        both = one.settings()["proxy_routers"][:-1]
        both += f', {{"name": "r2", "url": "{gone.url}", "user": "admin", "password": "correct"}}]'
        two = {"proxy_routers": both}
        async with house.worker(**two, handshakes_at_once=1) as parts:
            await until(lambda: _all_ok(parts))
            await gone.go()
            # nothing fails, however soon after it: what it had in hand and did not send is put back in line
            outcomes = await asyncio.gather(*(one.ask(f"k{number}", user=f"u{number}") for number in range(6)))
            assert [outcome.error for outcome in outcomes] == [None] * 6
            assert await one.opened() == [6]
            assert parts.routers.degraded

            await gone.come()
            await until(lambda: _all_ok(parts))
            # the other is busy: the one that is back is tried, and is whole again
            await one.simulators[0].arm("open", "hang", when="before", count=1)
            hanging = await one.queue(["h1"], user="h")

            async def struck() -> bool:
                return bool(await one.simulators[0].struck("open")) or bool(
                    await house.operations(key_id="h1", state="done")
                )

            await until(struck)
            outcomes = await asyncio.gather(*(one.ask(f"n{number}", user=f"u{number}") for number in range(3)))
            assert [outcome.error for outcome in outcomes] == [None] * 3
            assert await house.operations(router="r2", state="done")
            assert not parts.routers.degraded
            await one.simulators[0].disarm()
            await all_ended(house, hanging, within=20)


async def test_without_any_router_opens_fail_soon_until_one_is_back(house: House) -> None:
    async with coming_and_going(wallet_seed=201) as gone:
        settings = house.settings(router_url=gone.url).proxy_routers.get_secret_value()
        async with house.worker(proxy_routers=settings, lease_seconds=5.0) as parts:
            await house.gateway.open("k0")
            await gone.go()
            for key in ("k1", "k2"):
                with pytest.raises(ApiError) as caught:
                    await house.gateway.open(key)
                assert caught.value.code == "service_unavailable"
            assert not parts.routers.healthy
            assert await house.operations(state="pending") == []

            await gone.come()
            await until(lambda: _all_ok(parts))
            await house.gateway.open("k1")


async def test_a_router_that_works_with_another_contract_is_not_used(house: House) -> None:
    async with house.worker():
        await house.gateway.open()
    # a new deployment of the contract: none of our sessions is in it
    house.simulator._router.simulator.node.chain.diamond = "0x" + "ab" * 20
    async with serve(house.settings()) as parts:

        async def is_refused() -> bool:
            return "contract" in parts.routers.fleet.states["r1"]

        await until(is_refused)
        assert not parts.routers.healthy
    assert (await house.only_session())["state"] == "active"


async def test_what_stands_on_the_wallet_of_a_router_that_was_taken_out_is_named_and_settled_when_closed(
    house: House,
) -> None:
    async with house.worker():
        row = await house.gateway.open()
    # another name for the same: the market can be read, the wallet is nobody's we are told of
    (told,) = json.loads(house.settings().proxy_routers.get_secret_value())
    renamed: dict[str, Any] = {"proxy_routers": json.dumps([told | {"name": "other"}]), "left_behind_seconds": 0.2}
    async with serve(house.settings(**renamed)) as parts:

        async def is_named() -> bool:
            return "PROXY_ROUTERS" in parts.routers.fleet.states.get(told["name"], "")

        await until(is_named)
        said = await sessions(house, "routers", "--json")
        assert told["name"] in {line["router"] for line in said.lines}
        # its own router, wherever it is, closes what has run out
        await house.simulator.advance(3_700)
        await house.simulator.close_expired()
        stored = await house.session_is("closed", chain_session=row.session_id)

        async def is_over() -> bool:
            return told["name"] not in parts.routers.fleet.states

        await until(is_over)
    assert stored["closed_at"] is not None
