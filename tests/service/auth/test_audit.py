import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import pytest
from morpheus_auth.audit import Audit, AuditBrokenError, load_audit_keys
from morpheus_auth.documents import DOCUMENTS, AuditKeyDocument
from morpheus_auth.key_encryption import LocalKeyEncryption
from morpheus_auth.keyring import Keyring
from morpheus_auth.settings import AuthSettings
from morpheus_common.bus.names import User
from morpheus_common.bus.permissions import permissions_of
from morpheus_common.bus.rpc import RpcClient
from morpheus_common.clock import utc_now
from morpheus_common.contracts.audit import (
    LIST_AUDIT,
    START,
    VERIFY_AUDIT,
    Actor,
    AuditAction,
    AuditEntry,
    AuditMark,
    AuditProblemKind,
    AuditVerdict,
    ListAudit,
    VerifyAudit,
)
from morpheus_common.errors import ApiError
from morpheus_common.ids import uuid7
from morpheus_common.store.mongo import Database, init_documents
from morpheus_common.store.transactions import run_transaction
from pymongo.asynchronous.client_session import AsyncClientSession

from tests.servers import NatsAccount
from tests.service import command
from tests.service.auth.harness import Gateway, age, new_key


@pytest.fixture
async def audit(settings: AuthSettings, database: Database) -> Audit:
    """An audit log that has begun, in this process."""
    await init_documents(database, DOCUMENTS)
    audit = Audit(database.client, await load_audit_keys(Keyring(LocalKeyEncryption(settings.keyring)), utc_now))
    await audit.begin()
    return audit


async def note(audit: Audit, *, user: str | None = None, **facts: str | int | bool) -> None:
    async def write(session: AsyncClientSession) -> None:
        await audit.append(AuditAction.KEY_CREATED, session=session, actor=Actor.USER, subject_user=user, facts=facts)

    await audit.transaction(write)


@pytest.fixture
async def ten(audit: Audit) -> Audit:
    for number in range(1, 11):
        await note(audit, number=number)
    return audit


async def verdict(audit: Audit, *, page: int = 4, expect: AuditMark | None = None) -> AuditVerdict:
    """The verdict on all pages."""
    problems, last, entries = [], START, 0
    while True:
        found = await audit.verify(VerifyAudit(after=last, expect=expect, limit=page))
        problems += found.problems
        last, entries = found.last, entries + found.entries
        if not found.more:
            return AuditVerdict(last=last, entries=entries, problems=problems, more=False)


def found_in(told: AuditVerdict) -> list[tuple[AuditProblemKind, int | None]]:
    return [(item.kind, item.sequence) for item in told.problems]


async def test_what_was_written_is_whole_numbered_from_one_and_dated_by_the_database(
    ten: Audit, database: Database
) -> None:
    told = await verdict(ten)
    assert (told.entries, told.last.sequence, told.problems) == (10, 10, [])
    rows = await database.get_collection("audit").find().sort("_id", 1).to_list()
    assert [row["_id"] for row in rows] == list(range(1, 11))
    now = (await database.command("hello"))["localTime"].replace(tzinfo=None)
    assert abs((now - rows[-1]["at"].replace(tzinfo=None)).total_seconds()) < 30


async def test_fifty_acts_at_once_are_fifty_entries_without_a_gap(audit: Audit) -> None:
    """C50."""
    await asyncio.gather(*(note(audit, user=f"user-{number % 7}", number=number) for number in range(50)))
    told = await verdict(audit)
    assert (told.entries, told.last.sequence, told.problems) == (50, 50, [])
    listed = (await audit.list_entries(ListAudit())).entries
    assert sorted(entry.facts["number"] for entry in listed) == list(range(50))
    assert len({entry.subject for entry in listed}) == 7


async def test_an_act_that_is_aborted_leaves_no_entry_and_an_entry_that_fails_leaves_no_act(
    audit: Audit, database: Database
) -> None:
    """C50: neither is ever there without the other."""

    async def act_fails(session: AsyncClientSession) -> None:
        await audit.append(AuditAction.KEY_CREATED, session=session, actor=Actor.USER, subject_user="ada", facts={})
        raise ApiError("key_limit_reached")

    with pytest.raises(ApiError):
        await run_transaction(audit.client, act_fails)
    assert (await verdict(audit)).entries == 0
    assert await database.get_collection("audit_subjects").count_documents({}) == 0

    async def entry_fails(session: AsyncClientSession) -> None:
        await database.get_collection("users").insert_one({"_id": "ada"}, session=session)
        await audit.append(
            AuditAction.USER_REGISTERED, session=session, actor=Actor.USER, subject_user="ada", facts={"e": "a@b.c"}
        )

    with pytest.raises(ValueError, match="'e' is no fact"):
        await run_transaction(audit.client, entry_fails)
    assert await database.get_collection("users").count_documents({}) == 0


@pytest.mark.parametrize(
    "facts",
    [
        {"email": "ada@example.com"},
        {"name": "Ada Lovelace"},
        {"whose": "ada"},
        {"Bad-Name": 1},
        {"large": 2**63},
        {"long": "x" * 129},
        {f"fact_{number}": number for number in range(17)},
    ],
    ids=lambda facts: next(iter(facts)),
)
async def test_what_may_be_personal_or_has_no_bound_is_no_fact(audit: Audit, facts: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="fact") as refused:
        await note(audit, user="ada", **facts)
    assert "ada" not in str(refused.value)


# what a hand in the database does

Tamper = Callable[[Database], Awaitable[object]]


def entries(database: Database) -> Any:
    return database.get_collection("audit")


async def remove_from_the_middle(database: Database) -> None:
    await entries(database).delete_one({"_id": 5})


async def cut_the_tail_off(database: Database) -> None:
    await entries(database).delete_many({"_id": {"$gt": 7}})


async def cut_the_tail_off_with_its_head(database: Database) -> None:
    await entries(database).delete_many({"_id": {"$gt": 7}})
    seventh = await entries(database).find_one({"_id": 7})
    await database.get_collection("audit_head").update_one({}, {"$set": {"sequence": 7, "hash": seventh["hash"]}})


async def alter_a_fact(database: Database) -> None:
    await entries(database).update_one({"_id": 3}, {"$set": {"facts.number": 33}})


async def add_a_field(database: Database) -> None:
    await entries(database).update_one({"_id": 3}, {"$set": {"remark": "nothing to see"}})


async def alter_the_time_beyond_all_calendars(database: Database) -> None:
    await entries(database).update_one({"_id": 3}, [{"$set": {"at": {"$toDate": 10**17}}}])


async def exchange_two(database: Database) -> None:
    third, fourth = await entries(database).find({"_id": {"$in": [3, 4]}}).sort("_id", 1).to_list()
    await entries(database).replace_one({"_id": 3}, {**fourth, "_id": 3})
    await entries(database).replace_one({"_id": 4}, {**third, "_id": 4})


async def insert_behind_the_end(database: Database) -> None:
    last = await entries(database).find_one({"_id": 10})
    await entries(database).insert_one({**last, "_id": 11, "previous": last["hash"]})


async def insert_between_two_numbers(database: Database) -> None:
    await entries(database).insert_one({"_id": 5.5, "action": "key.created"})


async def take_the_head_away(database: Database) -> None:
    await database.get_collection("audit_head").delete_many({})


@pytest.mark.parametrize(
    ("tamper", "found"),
    [
        (remove_from_the_middle, [(AuditProblemKind.MISSING, 5)]),
        (cut_the_tail_off, [(AuditProblemKind.MISSING, 8)]),
        (cut_the_tail_off_with_its_head, [(AuditProblemKind.HEAD, None)]),
        (alter_a_fact, [(AuditProblemKind.ALTERED, 3)]),
        (add_a_field, [(AuditProblemKind.ALTERED, 3)]),
        (alter_the_time_beyond_all_calendars, [(AuditProblemKind.ALTERED, 3)]),
        (
            exchange_two,
            [
                (AuditProblemKind.BROKEN_LINK, 3),
                (AuditProblemKind.ALTERED, 3),
                (AuditProblemKind.BROKEN_LINK, 4),
                (AuditProblemKind.ALTERED, 4),
                (AuditProblemKind.BROKEN_LINK, 5),
            ],
        ),
        (insert_behind_the_end, [(AuditProblemKind.ALTERED, 11), (AuditProblemKind.INSERTED, 11)]),
        (insert_between_two_numbers, [(AuditProblemKind.INSERTED, None)]),
        (take_the_head_away, [(AuditProblemKind.HEAD, None)]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.parametrize("page", [3, 100])
async def test_tampering_is_found_and_told_with_the_number_of_the_entry(
    ten: Audit, database: Database, tamper: Tamper, found: list[Any], page: int
) -> None:
    """C50."""
    await tamper(database)
    assert sorted(found_in(await verdict(ten, page=page)), key=str) == sorted(found, key=str)


@pytest.mark.parametrize(
    "tamper", [cut_the_tail_off_with_its_head, take_the_head_away, insert_behind_the_end], ids=lambda it: it.__name__
)
async def test_nothing_is_built_on_an_end_that_is_not_what_it_was(
    ten: Audit, database: Database, tamper: Tamper
) -> None:
    """C50: the next entry would give a cut-off tail a head that fits."""
    await tamper(database)
    await ten.begin()
    with pytest.raises(AuditBrokenError):
        await note(ten)
    assert (await verdict(ten)).problems != []


async def test_an_older_state_of_the_database_is_found_by_the_head_that_was_noted(
    ten: Audit, database: Database
) -> None:
    """C50."""
    kept = {name: await database.get_collection(name).find().to_list() for name in ("audit", "audit_head")}
    await note(ten, number=11)
    noted = (await verdict(ten)).last
    assert (await verdict(ten, expect=noted)).problems == []
    for name, rows in kept.items():
        await database.get_collection(name).delete_many({})
        await database.get_collection(name).insert_many(rows)
    assert found_in(await verdict(ten)) == []
    assert found_in(await verdict(ten, expect=noted)) == [(AuditProblemKind.NOT_AS_NOTED, 11)]
    for number in (101, 102):
        await note(ten, number=number)
    assert found_in(await verdict(ten)) == []
    assert found_in(await verdict(ten, expect=noted)) == [(AuditProblemKind.NOT_AS_NOTED, 11)]


async def test_two_processes_at_once_make_one_log(audit: Audit) -> None:
    """C50: the turns within a process spare repetitions; the database alone keeps the order."""
    other = Audit(audit.client, audit.keys)
    await asyncio.gather(other.begin(), *(note(each, number=number) for number in range(10) for each in (audit, other)))
    assert (await verdict(audit)).problems == []
    assert (await verdict(audit)).entries == 20


async def test_a_log_goes_on_under_a_new_key_and_entries_of_a_lost_key_are_said_to_be_unproven(
    ten: Audit, database: Database, settings: AuthSettings
) -> None:
    keyring = Keyring(LocalKeyEncryption(settings.keyring))
    key_id = uuid7()
    wrapped = await keyring.wrap(b"n" * 32, record_id=key_id)
    await AuditKeyDocument(id=key_id, generation=2, private_key=wrapped, created_at=utc_now()).insert()
    newer = Audit(ten.client, await load_audit_keys(keyring, utc_now))
    await newer.begin()
    await note(newer, number=11)
    assert (await verdict(newer)).problems == []
    with pytest.raises(AuditBrokenError, match="a key that is not there"):
        await note(ten)
    await database.get_collection("audit_keys").delete_one({"generation": 1})
    only_new = Audit(ten.client, await load_audit_keys(keyring, utc_now))
    assert found_in(await verdict(only_new)) == [(AuditProblemKind.NO_KEY, number) for number in range(1, 11)]


async def test_reading_page_by_page_while_others_append_shows_nothing_wrong(ten: Audit) -> None:
    writing = asyncio.gather(*(note(ten, number=number) for number in range(20)))
    while not writing.done():
        assert (await verdict(ten, page=2)).problems == []
    await writing
    assert (await verdict(ten)).entries == 30


async def test_what_a_user_did_is_no_longer_his_once_he_is_forgotten(audit: Audit, database: Database) -> None:
    """C50."""
    for user in ("user-ada", "user-eve", "user-ada"):
        await note(audit, user=user)
    of_ada = (await audit.list_entries(ListAudit(user_id="user-ada"))).entries
    assert [entry.sequence for entry in of_ada] == [1, 3]

    async def forget(session: AsyncClientSession) -> None:
        await audit.forget("user-ada", session=session)

    await run_transaction(audit.client, forget)
    assert (await audit.list_entries(ListAudit(user_id="user-ada"))).entries == []
    assert (await verdict(audit)).problems == []
    for name in ("audit", "audit_head", "audit_subjects"):
        assert "user-ada" not in str(await database.get_collection(name).find().to_list())


# the acts


async def test_acts_on_accounts_and_keys_are_in_the_log_with_ids_only(gateway: Gateway, ops: RpcClient) -> None:
    """C50."""
    ada = await gateway.register("ada@example.com", name="Ada")
    tokens = await gateway.login("ada@example.com")
    key = await gateway.create_key(ada.id, new_key(), name="laptop")
    for _ in range(2):
        await gateway.deactivate_key(ada.id, key.id)
    listed = (await ops.call(LIST_AUDIT, ListAudit())).entries
    assert [(entry.action, entry.actor, entry.facts) for entry in listed] == [
        ("user.registered", "user", {"registration": "open"}),
        ("key.created", "user", {"key_id": key.id}),
        ("key.deactivated", "user", {"key_id": key.id}),
    ]
    assert len({entry.subject for entry in listed}) == 1
    shown = "".join(entry.model_dump_json() for entry in listed)
    assert [secret for secret in ("ada@", "Ada", "laptop", ada.id, tokens.refresh_token) if secret in shown] == []


async def test_acts_that_were_refused_are_not_in_the_log(gateway: Gateway, ops: RpcClient) -> None:
    ada = await gateway.register("ada@example.com")
    with pytest.raises(ApiError, match="email_taken"):
        await gateway.register("ada@example.com")
    with pytest.raises(ApiError, match="key_not_found"):
        await gateway.deactivate_key(ada.id, uuid7())
    assert [entry.action for entry in (await ops.call(LIST_AUDIT, ListAudit())).entries] == ["user.registered"]


async def test_a_login_that_was_revoked_for_a_token_used_twice_is_in_the_log_once(
    gateway: Gateway, database: Database, ops: RpcClient
) -> None:
    """C8, C50."""
    ada = await gateway.register("ada@example.com")
    tokens = await gateway.login("ada@example.com")
    await gateway.refresh(tokens.refresh_token)
    await age(database, "refresh_answers", "created_at", seconds=11)
    for _ in range(2):
        with pytest.raises(ApiError, match="refresh_token_reused"):
            await gateway.refresh(tokens.refresh_token)
    login = await database.get_collection("logins").find_one({"user_id": ada.id})
    assert login is not None
    (_, revoked) = (await ops.call(LIST_AUDIT, ListAudit())).entries
    assert (revoked.action, revoked.actor, revoked.facts) == ("login.revoked", "service", {"login_id": login["_id"]})


async def test_no_account_is_made_whose_entry_cannot_be_written(gateway: Gateway, database: Database) -> None:
    """C50."""
    await gateway.register("ada@example.com")
    await take_the_head_away(database)
    with pytest.raises(ApiError, match="internal_error"):
        await gateway.register("eve@example.com")
    assert await database.get_collection("users").count_documents({}) == 1


def test_only_operators_may_ask() -> None:
    """C12."""
    for contract in (VERIFY_AUDIT, LIST_AUDIT):
        assert [user for user in User if contract.subject in permissions_of(user).publish] == [User.OPS]


# the command


@pytest.fixture
async def ops(nats_streams: NatsAccount) -> AsyncIterator[RpcClient]:
    connection = await nats_streams.connect(User.OPS)
    yield RpcClient(connection)
    await connection.close()


Morpheus = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
def morpheus(nats_streams: NatsAccount) -> Morpheus:
    """Run `morpheus audit …` as an operator would; returns exit code, stdout and stderr."""
    return partial(command.morpheus, nats_streams, "audit")


async def test_the_command_prints_the_head_takes_it_again_and_fails_when_an_entry_is_gone(
    gateway: Gateway, database: Database, morpheus: Morpheus
) -> None:
    """C50."""
    for name in ("ada", "eve", "kim"):
        await gateway.register(f"{name}@example.com")
    code, out, _ = await morpheus("verify")
    assert (code, out.splitlines()[0]) == (0, "3 entries: whole.")
    head = out.split()[-1]
    assert head.startswith("3:")
    assert (await morpheus("verify", "--expect", head))[0] == 0
    code, out, _ = await morpheus("verify", "--expect", f"2:{head[2:]}", "--json")
    problem, summary = map(json.loads, out.splitlines())
    assert (code, problem["kind"], problem["sequence"], summary["head"]) == (1, "not as noted", 2, head)
    await entries(database).delete_one({"_id": 2})
    code, out, err = await morpheus("verify")
    assert (code, err) == (1, "")
    assert "Entry 2 is missing." in out
    assert "2 entries: NOT whole, 1 problems." in out


async def test_the_command_lists_what_was_asked_for(gateway: Gateway, morpheus: Morpheus) -> None:
    ada = await gateway.register("ada@example.com")
    eve = await gateway.register("eve@example.com")
    key = await gateway.create_key(eve.id, new_key())
    code, out, _ = await morpheus("list")
    assert (code, out.splitlines()[-1]) == (0, "3 entries.")
    assert f"key_id={key.id}" in out

    async def listed(*arguments: str) -> list[AuditEntry]:
        code, out, err = await morpheus("list", "--json", *arguments)
        assert code == 0, err
        return [AuditEntry.model_validate_json(line) for line in out.splitlines()]

    assert [entry.action for entry in await listed("--action", "key.created")] == ["key.created"]
    assert [entry.sequence for entry in await listed("--user", ada.id)] == [1]
    assert [entry.sequence for entry in await listed("--since", "2026-01-01")] == [1, 2, 3]
    assert await listed("--since", "2999-01-01T00:00:00") == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("verify", "--expect", "no head"), "--expect wants a head as `morpheus audit verify` printed it"),
        (("list", "--action", "nothing"), "No such action: nothing. There are: user.registered, "),
        (("verify",), "No auth worker answers on the bus."),
    ],
)
async def test_what_cannot_be_asked_is_said_in_a_sentence(
    morpheus: Morpheus, arguments: tuple[str, ...], said: str
) -> None:
    code, out, err = await morpheus(*arguments)
    assert (code, out) == (1, "")
    assert err.startswith(f"morpheus: {said}")
