import asyncio
import itertools
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from morpheus_auth.delegations import Delegations
from morpheus_auth.documents import DelegationDocument
from morpheus_auth.key_encryption import LocalKeyEncryption
from morpheus_auth.settings import AuthSettings
from morpheus_auth.signed_delegations import DelegationRules
from morpheus_auth.worker import serve
from morpheus_common.clock import utc_now
from morpheus_common.contracts.auth import UserRow
from morpheus_common.contracts.delegations import StoreDelegation, Verification
from morpheus_common.errors import ApiError
from morpheus_common.store.mongo import Database
from morpheus_common.store.transactions import run_transaction
from pymongo.asynchronous.client_session import AsyncClientSession

from tests.service.auth.harness import Gateway, age, audit_of

GATEWAY = "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A"
DELEGATOR = "0x" + "5a" * 20
_salts: Iterator[int] = itertools.count(1)


def delegation(**fields: object) -> str:
    """Return one that no other test has. Nobody signed it: most delegators are contract accounts."""
    parts = {
        "delegate": GATEWAY,
        "delegator": DELEGATOR,
        "authority": "0x" + "ff" * 32,
        "caveats": [{"enforcer": "0x" + "ab" * 20, "terms": "0x01", "args": "0x"}],
        "salt": hex(next(_salts)),
        "signature": "0x" + "11" * 65,
    }
    return json.dumps(parts | fields)


@pytest.fixture
def settings(settings: AuthSettings) -> AuthSettings:
    return settings.model_copy(update={"delegate_address": GATEWAY})


@pytest.fixture
async def ada(gateway: Gateway) -> UserRow:
    return await gateway.register("ada@example.com")


@pytest.fixture
async def eve(gateway: Gateway) -> UserRow:
    return await gateway.register("eve@example.com")


async def events_of(database: Database, delegation_id: str) -> list[tuple[str, int, bool]]:
    rows = database.get_collection("outbox").find({"entity": delegation_id}).sort("version")
    return [
        (row["subject"].split(".")[3], row["version"], json.loads(row["payload"])["is_active"]) async for row in rows
    ]


async def test_a_delegation_is_kept_as_it_was_sent(gateway: Gateway, database: Database, ada: UserRow) -> None:
    text = delegation()
    expiry = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    row = await gateway.store_delegation(ada.id, text, expiry=expiry)
    assert (row.signed_delegation, row.sent_as_text, row.expiry, row.is_active) == (text, True, expiry, True)
    assert (row.user_id, row.delegate_address, row.chain_id) == (ada.id, GATEWAY, 8453)
    assert row.delegator_address.lower() == DELEGATOR
    assert row.verification is Verification.UNVERIFIED
    assert await gateway.list_delegations(ada.id) == [row]
    assert await gateway.active_delegation(ada.id) == row
    assert await events_of(database, row.id) == [("stored", 1, True)]


async def test_a_refused_delegation_leaves_nothing(gateway: Gateway, ada: UserRow) -> None:
    with pytest.raises(ApiError, match="delegation_unrestricted"):
        await gateway.store_delegation(ada.id, delegation(caveats=[]))
    with pytest.raises(ApiError) as caught:
        await gateway.store_delegation(ada.id, delegation(), expiry=datetime.now(UTC) - timedelta(seconds=1))
    assert (caught.value.code, caught.value.param) == ("validation_error", "expiry")
    assert await gateway.list_delegations(ada.id) == []


async def test_storing_an_active_one_makes_the_others_inactive(
    gateway: Gateway, database: Database, ada: UserRow
) -> None:
    first = await gateway.store_delegation(ada.id, delegation())
    second = await gateway.store_delegation(ada.id, delegation(), is_active=False)
    third = await gateway.store_delegation(ada.id, delegation())
    rows = await gateway.list_delegations(ada.id)
    assert [(row.id, row.is_active) for row in rows] == [(third.id, True), (second.id, False), (first.id, False)]
    assert await gateway.active_delegation(ada.id) == third
    assert await events_of(database, first.id) == [("stored", 1, True), ("deactivated", 2, False)]
    assert await events_of(database, second.id) == [("stored", 1, False)]


async def test_of_many_active_ones_at_once_one_stays_active(gateway: Gateway, database: Database, ada: UserRow) -> None:
    await asyncio.gather(*(gateway.store_delegation(ada.id, delegation()) for _ in range(8)))
    stored = database.get_collection("delegations")
    assert await stored.count_documents({"user_id": ada.id}) == 8
    assert await stored.count_documents({"user_id": ada.id, "is_active": True}) == 1


async def test_the_active_one_of_another_user_stays(gateway: Gateway, ada: UserRow, eve: UserRow) -> None:
    row = await gateway.store_delegation(ada.id, delegation())
    await gateway.store_delegation(eve.id, delegation())
    assert await gateway.active_delegation(ada.id) == row


async def test_the_same_again_is_the_same_row(gateway: Gateway, database: Database, ada: UserRow) -> None:
    text = delegation()
    row = await gateway.store_delegation(ada.id, text)
    spelled = json.dumps(json.loads(text) | {"delegate": GATEWAY.lower()})
    assert await gateway.store_delegation(ada.id, spelled) == row
    assert await events_of(database, row.id) == [("stored", 1, True)]


async def test_the_same_at_once_is_one_row(gateway: Gateway, ada: UserRow) -> None:
    text = delegation()
    rows = await asyncio.gather(*(gateway.store_delegation(ada.id, text) for _ in range(6)))
    assert len({row.id for row in rows}) == 1
    assert await gateway.list_delegations(ada.id) == [rows[0]]


async def test_the_same_again_can_be_made_active_and_inactive(
    gateway: Gateway, database: Database, ada: UserRow
) -> None:
    text = delegation()
    row = await gateway.store_delegation(ada.id, text)
    newer = await gateway.store_delegation(ada.id, delegation())
    assert (await gateway.store_delegation(ada.id, text)).id == row.id
    assert [found.is_active for found in await gateway.list_delegations(ada.id)] == [False, True]
    assert await events_of(database, newer.id) == [("stored", 1, True), ("deactivated", 2, False)]
    assert not (await gateway.store_delegation(ada.id, text, is_active=False)).is_active
    assert await gateway.active_delegation(ada.id) is None
    told = [("stored", 1, True), ("deactivated", 2, False), ("activated", 3, True), ("deactivated", 4, False)]
    assert await events_of(database, row.id) == told


async def test_a_delegation_belongs_to_whoever_stored_it_first(gateway: Gateway, ada: UserRow, eve: UserRow) -> None:
    text = delegation()
    row = await gateway.store_delegation(ada.id, text)
    with pytest.raises(ApiError, match="delegation_taken"):
        await gateway.store_delegation(eve.id, text)
    assert await gateway.list_delegations(eve.id) == []
    await gateway.delete_delegation(ada.id, row.id)
    await gateway.store_delegation(eve.id, text)


async def test_of_two_users_at_once_one_gets_it(gateway: Gateway, ada: UserRow, eve: UserRow) -> None:
    for _ in range(3):
        text = delegation()
        answers = await asyncio.gather(
            *(gateway.store_delegation(user.id, text) for user in (ada, eve) * 2), return_exceptions=True
        )
        codes = [answer.code for answer in answers if isinstance(answer, ApiError)]
        assert codes == ["delegation_taken"] * 2


async def test_a_user_has_fifty_at_most(gateway: Gateway, database: Database, ada: UserRow) -> None:
    texts = [delegation() for _ in range(52)]
    for text in texts[:48]:
        await gateway.store_delegation(ada.id, text, is_active=False)
    answers = await asyncio.gather(
        *(gateway.store_delegation(ada.id, text) for text in texts[48:]), return_exceptions=True
    )
    assert [answer.code for answer in answers if isinstance(answer, ApiError)] == ["delegation_limit_reached"] * 2
    assert await database.get_collection("delegations").count_documents({}) == 50
    await gateway.store_delegation(ada.id, texts[0])


async def test_a_page_begins_where_it_is_told(gateway: Gateway, ada: UserRow) -> None:
    made = [await gateway.store_delegation(ada.id, delegation(), is_active=False) for _ in range(5)]
    page = await gateway.list_delegations(ada.id, skip=1, limit=2)
    assert [row.id for row in page] == [made[3].id, made[2].id]
    assert await gateway.list_delegations(ada.id, skip=5) == []


async def test_an_expired_delegation_is_not_active(gateway: Gateway, database: Database, ada: UserRow) -> None:
    expiry = datetime.now(UTC) + timedelta(hours=1)
    await gateway.store_delegation(ada.id, delegation(), expiry=expiry)
    assert await gateway.active_delegation(ada.id) is not None
    await age(database, "delegations", "expiry", seconds=3601)
    assert await gateway.active_delegation(ada.id) is None
    assert [row.is_active for row in await gateway.list_delegations(ada.id)] == [False]
    assert (await gateway.store_delegation(ada.id, delegation())).is_active


async def test_only_its_owner_can_delete_a_delegation(
    gateway: Gateway, database: Database, ada: UserRow, eve: UserRow
) -> None:
    """C11"""
    row = await gateway.store_delegation(ada.id, delegation())
    for user_id, delegation_id in ((eve.id, row.id), (ada.id, "no such delegation")):
        with pytest.raises(ApiError, match="delegation_not_found"):
            await gateway.delete_delegation(user_id, delegation_id)
    await gateway.delete_delegation(ada.id, row.id)
    assert await gateway.list_delegations(ada.id) == []
    assert await events_of(database, row.id) == [("stored", 1, True), ("deleted", 2, False)]
    with pytest.raises(ApiError, match="delegation_not_found"):
        await gateway.delete_delegation(ada.id, row.id)


async def test_a_disabled_user_stores_nothing(gateway: Gateway, database: Database, ada: UserRow) -> None:
    await database.get_collection("users").update_one({"_id": ada.id}, {"$set": {"is_active": False}})
    with pytest.raises(ApiError, match="invalid_token"):
        await gateway.store_delegation(ada.id, delegation())


async def test_an_operator_can_take_delegations_without_limits(settings: AuthSettings, idle_gateway: Gateway) -> None:
    async with serve(settings.model_copy(update={"allow_unrestricted_delegations": True, "chain_id": 84532})):
        ada = await idle_gateway.register("ada@example.com")
        row = await idle_gateway.store_delegation(ada.id, delegation(caveats=[]))
        assert row.chain_id == 84532


async def test_an_answer_comes_while_delegations_are_looked_at(gateway: Gateway, ada: UserRow) -> None:
    stores = [asyncio.create_task(gateway.store_delegation(ada.id, delegation())) for _ in range(12)]
    assert await gateway.list_keys(ada.id) == []
    assert not all(store.done() for store in stores)
    await asyncio.gather(*stores)


@pytest.fixture
async def delegations(settings: AuthSettings, gateway: Gateway) -> Delegations:
    """The domain as the deletion of an account uses it, on the client of the worker that answers `gateway`."""
    assert gateway
    client = DelegationDocument.get_pymongo_collection().database.client
    rules = DelegationRules(GATEWAY, 8453, settings.delegation_manager_address, allow_unrestricted=False)
    audit = await audit_of(client, LocalKeyEncryption(settings.keyring))
    return Delegations(audit=audit, rules=rules, most=50, clock=utc_now, staged=lambda: None)


async def test_all_of_a_user_are_erased_in_the_transaction_that_asks(
    gateway: Gateway, delegations: Delegations, database: Database, ada: UserRow, eve: UserRow
) -> None:
    rows = [
        await delegations.store(
            StoreDelegation(
                user_id=ada.id, delegate_address=GATEWAY, signed_delegation=delegation(), sent_as_text=False
            )
        )
        for _ in range(3)
    ]
    kept = await gateway.store_delegation(eve.id, delegation())

    async def erase_and_fail(session: AsyncClientSession) -> int:
        await delegations.erase(ada.id, session)
        raise ApiError("internal_error")

    with pytest.raises(ApiError, match="internal_error"):
        await run_transaction(delegations.audit.client, erase_and_fail)
    assert len(await gateway.list_delegations(ada.id)) == 3

    assert await run_transaction(delegations.audit.client, lambda session: delegations.erase(ada.id, session)) == 3
    assert await gateway.list_delegations(ada.id) == []
    assert await gateway.list_delegations(eve.id) == [kept]
    assert [await events_of(database, row.id) for row in rows] == [
        [("stored", 1, True), ("deactivated", 2, False), ("deleted", 3, False)],
        [("stored", 1, True), ("deactivated", 2, False), ("deleted", 3, False)],
        [("stored", 1, True), ("deleted", 2, False)],
    ]
    assert await run_transaction(delegations.audit.client, lambda session: delegations.erase(ada.id, session)) == 0
