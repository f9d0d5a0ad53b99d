"""Who guesses at an account waits; its owner never does for long, and nothing tells whether the account exists."""

import asyncio
import threading
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest
from morpheus_auth.settings import AuthSettings
from morpheus_auth.worker import serve
from morpheus_common.errors import ApiError
from morpheus_common.store.mongo import Database
from pwdlib import PasswordHash

from tests.service.auth.harness import PASSWORD, Gateway, Tokens, age, answered_by, dump, process, until

ADA = "ada@example.com"
HOME, OTHER, ATTACKER = "192.0.2.1", "192.0.2.2", "198.51.100.7"
WRONG = "a wrong password"


async def fails(gateway: Gateway, email: str = ADA, *, address: str | None, password: str = WRONG) -> ApiError:
    with pytest.raises(ApiError) as error:
        await gateway.login(email, password, address=address)
    return error.value


async def guess(gateway: Gateway, email: str = ADA, *, times: int = 20) -> None:
    """Let an attacker guess a password, each time from another address."""
    for number in range(times):
        error = await fails(gateway, email, address=f"203.0.113.{number}")
        assert error.code == "invalid_credentials"


async def pass_wait(database: Database, *, seconds: int = 60) -> None:
    await age(database, "login_waits", "turn_at", seconds=seconds)


@pytest.fixture
async def tokens(gateway: Gateway) -> Tokens:
    """Ada has an account and logged in from home."""
    await gateway.register(ADA)
    return await gateway.login(ADA, address=HOME)


@pytest.mark.usefixtures("tokens")
async def test_after_twenty_failures_a_new_address_waits_and_is_told_how_long(gateway: Gateway) -> None:
    """C9"""
    await guess(gateway)
    error = await fails(gateway, address=ATTACKER)
    assert error.code == "rate_limit_exceeded"
    assert error.retry_after is not None
    assert 55 <= error.retry_after <= 60


@pytest.mark.usefixtures("tokens")
async def test_an_address_that_logged_in_before_is_tried_at_once_as_often_as_it_likes(gateway: Gateway) -> None:
    await guess(gateway)
    for _ in range(5):
        assert (await fails(gateway, address=HOME)).code == "invalid_credentials"
    await gateway.login(ADA, address=HOME)


@pytest.mark.usefixtures("tokens")
async def test_nobody_can_lock_the_owner_out_of_a_new_address(gateway: Gateway, database: Database) -> None:
    await guess(gateway)
    assert (await fails(gateway, address=OTHER, password=PASSWORD)).code == "rate_limit_exceeded"
    await pass_wait(database, seconds=40)
    # others go on guessing, and the owner is impatient: neither makes his wait longer
    for number in range(30):
        assert (await fails(gateway, address=f"198.51.100.{number}")).code == "rate_limit_exceeded"
    again = await fails(gateway, address=OTHER, password=PASSWORD)
    assert again.retry_after is not None
    assert again.retry_after <= 20
    await pass_wait(database, seconds=20)
    await asyncio.gather(*(fails(gateway, address=f"198.51.100.{number}") for number in range(30)))
    await gateway.login(ADA, address=OTHER)
    # and from now on it is an address of his
    await gateway.login(ADA, address=OTHER)


@pytest.mark.usefixtures("tokens")
async def test_who_has_waited_has_one_try(gateway: Gateway, database: Database) -> None:
    await guess(gateway)
    await fails(gateway, address=ATTACKER)
    await pass_wait(database)
    errors = await asyncio.gather(*(fails(gateway, address=ATTACKER) for _ in range(20)))
    codes = Counter(error.code for error in errors)
    assert codes == {"invalid_credentials": 1, "rate_limit_exceeded": 19}


@pytest.mark.parametrize(("waiting", "code"), [(0, "overloaded"), (1, "service_timeout")])
async def test_a_turn_in_which_no_password_was_looked_at_is_not_lost(
    settings: AuthSettings,
    idle_gateway: Gateway,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    waiting: int,
    code: str,
) -> None:
    async with serve(settings):
        await idle_gateway.register(ADA)
        await guess(idle_gateway)
        await fails(idle_gateway, address=OTHER)
        await pass_wait(database)
    # one hash at a time, and that of an account that does not exist takes until we let it end
    busy = settings.model_copy(update={"hashes_at_once": 1, "hashes_waiting": waiting})
    goes_on, verify = threading.Event(), PasswordHash.verify

    def held(hasher: PasswordHash, password: str, stored: str) -> bool:
        assert password != WRONG or goes_on.wait(10)
        return verify(hasher, password, stored)

    monkeypatch.setattr(PasswordHash, "verify", held)
    tries = database.get_collection("login_tries")

    async def is_let_through() -> bool:
        return await tries.count_documents({}) == 2

    async def nothing_of_it_counts() -> bool:
        return await tries.count_documents({"tries": {"$size": 20}}) == 1

    async with serve(busy):
        slow = asyncio.create_task(fails(idle_gateway, "nobody@example.com", address=ATTACKER))
        await until(is_let_through)
        with pytest.raises(ApiError, match=code):
            await idle_gateway.login(ADA, address=OTHER, timeout=0.4 if waiting else None)
        goes_on.set()
        assert (await slow).code == "invalid_credentials"
        await until(nothing_of_it_counts)
        await idle_gateway.login(ADA, address=OTHER)
        await until(nothing_of_it_counts)


async def test_of_sixty_guesses_at_once_twenty_are_tried(gateway: Gateway, database: Database) -> None:
    """F38: what is checked first and counted later lets a burst through."""
    await gateway.register(ADA)
    errors = await asyncio.gather(*(fails(gateway, address=f"203.0.113.{number}") for number in range(60)))
    assert Counter(error.code for error in errors) == {"invalid_credentials": 20, "rate_limit_exceeded": 40}
    assert await database.get_collection("login_waits").count_documents({}) == 40


async def test_logins_that_succeed_do_not_count(gateway: Gateway) -> None:
    await gateway.register(ADA)
    for number in range(25):
        await gateway.login(ADA, address=f"203.0.113.{number}")
    assert (await fails(gateway, address=ATTACKER)).code == "invalid_credentials"


@pytest.mark.usefixtures("tokens")
async def test_a_login_of_the_owner_gives_the_guesser_no_new_tries(gateway: Gateway) -> None:
    await guess(gateway)
    await gateway.login(ADA, address=HOME)
    assert (await fails(gateway, address=ATTACKER)).code == "rate_limit_exceeded"


@pytest.mark.usefixtures("tokens")
async def test_failures_count_for_ten_minutes(gateway: Gateway, database: Database) -> None:
    await guess(gateway)
    moved = {"$map": {"input": "$tries", "in": {"id": "$$this.id", "at": {"$subtract": ["$$this.at", 601_000]}}}}
    await database.get_collection("login_tries").update_many({}, [{"$set": {"tries": moved}}])
    assert (await fails(gateway, address=ATTACKER)).code == "invalid_credentials"


async def test_an_account_that_does_not_exist_is_throttled_the_same(gateway: Gateway, database: Database) -> None:
    await gateway.register(ADA)
    told = []
    for email in (ADA, "nobody@example.com", "not an address"):
        await guess(gateway, email)
        waits = await fails(gateway, email, address=ATTACKER)
        await pass_wait(database)
        tried = await fails(gateway, email, address=ATTACKER)
        told.append((waits.code, waits.message, tried.code, tried.message))
    assert len(set(told)) == 1


async def test_all_spellings_of_an_e_mail_are_one_account(gateway: Gateway) -> None:
    for number in range(20):
        await fails(gateway, ("ADA@example.com", " ada@EXAMPLE.com")[number % 2], address=f"203.0.113.{number}")
    assert (await fails(gateway, address=ATTACKER)).code == "rate_limit_exceeded"


@pytest.mark.usefixtures("tokens")
async def test_addresses_of_one_ipv6_network_are_one(gateway: Gateway) -> None:
    await gateway.login(ADA, address="2001:db8:1:2::1")
    await guess(gateway)
    await gateway.login(ADA, address="2001:db8:1:2:ffff::9")
    assert (await fails(gateway, address="2001:db8:1:3::1")).code == "rate_limit_exceeded"


async def test_the_last_twenty_addresses_are_remembered_for_ninety_days(gateway: Gateway, database: Database) -> None:
    ada = await gateway.register(ADA)
    for number in range(21):
        await gateway.login(ADA, address=f"192.0.2.{number}")
    users = database.get_collection("users")
    stored = await users.find_one({"_id": ada.id})
    assert stored is not None
    assert len(stored["known_addresses"]) == 20
    await guess(gateway)
    assert (await fails(gateway, address="192.0.2.0")).code == "rate_limit_exceeded"
    assert (await fails(gateway, address="192.0.2.1")).code == "invalid_credentials"
    long_ago = stored["created_at"] - timedelta(days=90)
    await users.update_one({"_id": ada.id}, {"$set": {"known_addresses.$[].at": long_ago}})
    assert (await fails(gateway, address="192.0.2.1")).code == "rate_limit_exceeded"


@pytest.mark.usefixtures("tokens")
async def test_no_address_and_no_e_mail_of_a_stranger_is_stored(gateway: Gateway, database: Database) -> None:
    await guess(gateway, "stranger@example.com", times=20)
    await fails(gateway, "stranger@example.com", address=ATTACKER)
    stored = await dump(database)
    assert ADA.encode() in stored
    for secret in ("stranger", HOME, ATTACKER, "203.0.113"):
        assert secret.encode() not in stored


async def test_what_the_throttle_keeps_goes_by_itself(database: Database) -> None:
    for name in ("login_tries", "login_waits"):
        indexes = await database.get_collection(name).index_information()
        assert indexes["expiry"]["expireAfterSeconds"] == 0, name


async def test_two_workers_count_together(settings: AuthSettings, idle_gateway: Gateway, tmp_path: Path) -> None:
    async with process(settings, "a", tmp_path / "log"), process(settings, "b", tmp_path / "log"):
        await until(answered_by(idle_gateway, "a", "b"), within=60)
        errors = await asyncio.gather(*(fails(idle_gateway, address=f"203.0.113.{number}") for number in range(60)))
    assert Counter(error.code for error in errors) == {"invalid_credentials": 20, "rate_limit_exceeded": 40}


async def test_every_failed_login_takes_the_same_work(
    settings: AuthSettings, idle_gateway: Gateway, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F34, C9, C10: one verification of the same cost, whatever was wrong; nothing else of it takes long."""
    cases = {
        "unknown": ("nobody@example.com", PASSWORD),
        "no address": ("not an address", PASSWORD),
        "wrong": (ADA, WRONG),
        "short": (ADA, "short"),
        "empty": (ADA, ""),
        "disabled": ("disabled@example.com", PASSWORD),
    }
    verify = PasswordHash.verify
    costs: list[str] = []

    def counted(hasher: PasswordHash, password: str, stored: str) -> bool:
        # $argon2id$v=19$m=…,t=…,p=…$salt$hash
        costs.append(stored.rsplit("$", 2)[0])
        return verify(hasher, password, stored)

    done: dict[str, list[str]] = {}
    async with serve(settings):
        await idle_gateway.register(ADA)
        disabled = await idle_gateway.register("disabled@example.com")
        await database.get_collection("users").update_one({"_id": disabled.id}, {"$set": {"is_active": False}})
        monkeypatch.setattr(PasswordHash, "verify", counted)
        for name, (email, password) in cases.items():
            costs.clear()
            assert (await fails(idle_gateway, email, address=HOME, password=password)).code == "invalid_credentials"
            done[name] = list(costs)
    assert all(len(made) == 1 for made in done.values()), done
    assert len({made[0] for made in done.values()}) == 1, done
