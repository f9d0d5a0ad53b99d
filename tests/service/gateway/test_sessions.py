"""Sessions and automation over HTTP."""

import asyncio

import pytest
from morpheus_common.contracts.automation import Decision, DecisionRow
from morpheus_common.contracts.chat import PingAnswer, PingStatus
from morpheus_common.contracts.sessions import (
    CLOSE_SESSION,
    GET_OPERATION,
    LIST_SESSIONS,
    OPEN_SESSION,
    OPENS_LEFT,
    QUOTE_SESSION,
    AutomationWord,
    CloseResult,
    CloseSession,
    Failure,
    GetOperation,
    Idempotency,
    KeySessions,
    ListKeySessions,
    OpenOutcome,
    OpenSession,
    OpensLeft,
    OperationKind,
    OperationProgress,
    OperationRow,
    QuoteSession,
    SessionQuote,
    SessionState,
    Slot,
)
from morpheus_common.errors import ApiError
from morpheus_devstack.waiting import poll
from morpheus_gateway import api_keys
from morpheus_gateway.commands import ANSWER_MARGIN_SECONDS, PIECE_SECONDS
from morpheus_gateway.errors import REPLAYED_HEADER

from tests.service.gateway.conftest import House, MakeHouse
from tests.service.gateway.fakes import LONG_AGO, SESSION_ID, FakePrompt, Script, chain_id

OPEN = "/api/v1/session/modelsession?model_id=mistral-small"
DECISION = DecisionRow(
    id="decision-1",
    decision=Decision.RENEW,
    reason="ends_soon",
    key_id="key-1",
    key_prefix="sk-abcdef",
    model_id=chain_id(1),
    session_id=SESSION_ID,
    duration=900,
    shortened_by=None,
    operation_id="operation-1",
    error=None,
    times=1,
    at=LONG_AGO,
    last_at=LONG_AGO,
    facts={"seconds_left": "99"},
)
NO_BODY = ["/api/v1/session/closesession", "/api/v1/session/pingsession", "/api/v1/session/approve?amount=5"]
"""They read none."""


async def test_a_session_is_opened_by_model_name(house: House) -> None:
    response = await house.http.post(OPEN, headers=house.by_key, json={"sessionDuration": 600, "failover": True})
    assert response.status_code == 200
    assert response.json() == {
        "success": True,
        "message": "The session is open.",
        "session_id": SESSION_ID,
        "api_key_prefix": house.key[:9],
        "model": "Llama 3.3 70B",
        "bid_id": chain_id(77),
        "provider": "0x" + "0b" * 20,
        "stake": str(10**20),
        "price_per_second": str(10**10),
        "opened_at": "2026-01-02T03:04:05.000Z",
        "expires_at": "2026-01-02T03:04:05.000Z",
    }
    command: OpenSession = house.sessions.asked["open"][0]
    assert (command.model_id, command.bid_id, command.duration, command.wait) == (chain_id(2), None, 600, PIECE_SECONDS)


async def test_a_session_is_opened_by_bid_without_a_body(house: House) -> None:
    response = await house.http.post(f"/api/v1/session/bidsession?bid_id={chain_id(5)}", headers=house.by_key)
    assert response.status_code == 200
    command: OpenSession = house.sessions.asked["open"][0]
    assert (command.model_id, command.bid_id, command.duration) == (None, chain_id(5), 3600)


REFUSED: list[tuple[str, dict[str, object], int, str]] = [
    (OPEN, {"sessionDuration": 299}, 422, "validation_error"),
    (OPEN, {"sessionDuration": 86_401}, 422, "validation_error"),
    (OPEN, {"sessionDuration": "600"}, 422, "validation_error"),
    (OPEN, {"directPayment": True}, 400, "direct_payment_unsupported"),
    ("/api/v1/session/modelsession?model_id=none", {}, 404, "model_not_found"),
    ("/api/v1/session/modelsession", {}, 422, "validation_error"),
    ("/api/v1/session/bidsession?bid_id=0x12", {}, 422, "validation_error"),
    (f"{OPEN}&model_id=other", {}, 422, "validation_error"),
]


async def test_what_does_not_fit_is_refused_before_anything_is_asked(house: House) -> None:
    for path, body, status, code in REFUSED:
        response = await house.http.post(path, headers=house.by_key, json=body)
        assert (response.status_code, response.json()["error"]["code"]) == (status, code), (path, body)
    assert house.sessions.asked["open"] == []


async def test_an_unknown_model_is_told_of_the_parameter_that_named_it(house: House) -> None:
    opened = await house.http.post("/api/v1/session/modelsession?model_id=mistral", headers=house.by_key)
    quoted = await house.http.get("/api/v1/session/quote?model_id=mistral", headers=house.by_key)
    for response in (opened, quoted):
        error = response.json()["error"]
        assert (response.status_code, error["code"], error["param"]) == (404, "model_not_found", "model_id")
        assert error["details"] == {"suggestions": ["mistral-small"]}
    chatted = await house.chat(model="mistral")
    assert (chatted.status_code, chatted.json()["error"]["param"]) == (404, "model")


async def test_only_documented_names_of_fields_count_and_are_named_in_errors(house: House) -> None:
    for body in ({"duration": 600}, {"direct_payment": True}, {"duration": "x"}):
        assert (await house.http.post(OPEN, headers=house.by_key, json=body)).status_code == 200, body
        assert house.sessions.asked["open"][-1].duration == 3600
    refused = await house.http.post(OPEN, headers=house.by_key, json={"sessionDuration": 1, "directPayment": "no"})
    error = refused.json()["error"]
    assert (error["param"], error["details"]) == ("sessionDuration", {"fields": ["sessionDuration", "directPayment"]})
    assert "direct_payment" not in error["message"]


async def test_a_command_nobody_was_there_for_is_repeated_with_the_same_id(house: House) -> None:
    async def away_once(question: OpenSession) -> OpenOutcome:
        if len(house.sessions.asked["open"]) == 1:
            raise ApiError("service_unavailable")
        return await house.sessions.open(question)

    await house.sessions.answer(OPEN_SESSION, away_once)
    assert (await house.http.post(OPEN, headers=house.by_key)).status_code == 200
    first, second = house.sessions.asked["open"]
    assert first == second


async def test_a_command_nobody_is_there_for_is_refused_after_a_second_try(house: House) -> None:
    async def away(_: OpenSession) -> OpenOutcome:
        raise ApiError("service_unavailable", retry_after=3)

    await house.sessions.answer(OPEN_SESSION, away)
    response = await house.http.post(OPEN, headers=house.by_key)
    assert (response.status_code, response.headers["Retry-After"]) == (503, "3")
    assert len(house.sessions.asked["open"]) == 2


async def test_an_open_that_takes_long_names_its_operation(make_house: MakeHouse) -> None:
    house = await make_house(open_wait=0.2)
    await house.sessions.answer(OPEN_SESSION, still_opening)
    response = await house.http.post(OPEN, headers=house.by_key)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (504, "session_pending")
    operation_id = house.sessions.asked["open"][0].operation_id
    assert error["details"] == {"operation_id": operation_id}
    assert response.headers["Location"] == f"/api/v1/session/operations/{operation_id}"
    assert REPLAYED_HEADER not in response.headers


async def test_a_wait_is_made_of_pieces_and_joins_the_operation_that_an_answer_named(house: House) -> None:
    async def at_last(question: OpenSession) -> OpenOutcome:
        asked = len(house.sessions.asked["open"])
        if asked == 1:
            return OpenOutcome(operation_id="of-another-request")
        if asked == 2:
            # the worker died meanwhile
            raise ApiError("service_timeout")
        return await house.sessions.open(question)

    await house.sessions.answer(OPEN_SESSION, at_last)
    assert (await house.http.post(OPEN, headers=house.by_key)).status_code == 200
    asked = house.sessions.asked["open"]
    assert [command.joins for command in asked] == [None, "of-another-request", "of-another-request"]
    assert len({command.operation_id for command in asked}) == 1
    assert all(command.wait <= PIECE_SECONDS for command in asked)


async def test_what_an_open_came_to_is_told_as_its_error(house: House) -> None:
    async def failed(question: OpenSession) -> OpenOutcome:
        told = {"required_stake": "12"}
        error = Failure(code="insufficient_balance", message="Too little MOR.", details=told)
        return OpenOutcome(operation_id=question.operation_id, error=error)

    await house.sessions.answer(OPEN_SESSION, failed)
    response = await house.http.post(OPEN, headers=house.by_key)
    assert response.status_code == 402
    error = response.json()["error"]
    assert (error["code"], error["message"], error["details"]) == (
        "insufficient_balance",
        "Too little MOR.",
        {"required_stake": "12"},
    )


async def test_the_answer_to_an_open_says_how_many_are_left(make_house: MakeHouse) -> None:
    house = await make_house(open_wait=0.2)
    left = OpensLeft(limit=6, remaining=4, reset=59.5)
    none_left = {OPENS_LEFT: OpensLeft(limit=6, remaining=0, reset=12.0).model_dump()}

    async def opened(question: OpenSession) -> OpenOutcome:
        return (await house.sessions.open(question)).model_copy(update={"opens": left})

    async def pending(_: OpenSession) -> OpenOutcome:
        return OpenOutcome(operation_id="o1", opens=left)

    async def failed(_: OpenSession) -> OpenOutcome:
        return OpenOutcome(operation_id="o1", error=Failure(code="open_failed", message="No."), opens=left)

    async def refused(_: OpenSession) -> OpenOutcome:
        raise ApiError("session_open_limit", retry_after=7, details={"frees_at": "soon", **none_left})

    async def dear(_: OpenSession) -> OpenOutcome:
        raise ApiError("price_limit_reached", details=none_left)

    for answer, status, remaining, reset, details in (
        (opened, 200, "4", "59.5s", None),
        (pending, 504, "4", "59.5s", {"operation_id": "o1"}),
        (failed, 502, "4", "59.5s", None),
        (refused, 429, "0", "12s", {"frees_at": "soon"}),
        (dear, 403, "0", "12s", None),
    ):
        await house.sessions.answer(OPEN_SESSION, answer)
        for path in (OPEN, f"/api/v1/session/bidsession?bid_id={chain_id(5)}"):
            response = await house.http.post(path, headers=house.by_key)
            assert response.status_code == status
            told = [response.headers[f"x-ratelimit-{what}-requests"] for what in ("limit", "remaining", "reset")]
            assert told == ["6", remaining, reset]
            assert response.json().get("error", {}).get("details") == details


async def test_an_open_that_was_cancelled_is_no_failure_to_try_again(house: House) -> None:
    async def cancelled(question: OpenSession) -> OpenOutcome:
        error = ApiError("open_cancelled")
        return OpenOutcome(operation_id=question.operation_id, error=Failure(code=error.code, message=error.message))

    await house.sessions.answer(OPEN_SESSION, cancelled)
    response = await house.http.post(OPEN, headers=house.by_key)
    assert (response.status_code, response.json()["error"]["code"]) == (409, "open_cancelled")
    assert "Retry-After" not in response.headers


async def test_why_each_provider_took_no_session_is_told(house: House) -> None:
    reasons = [{"provider": "0x" + "0b" * 20, "reason": "no_capacity"}, {"provider": "0x1", "reason": "unreachable"}]

    async def failed(question: OpenSession) -> OpenOutcome:
        error = Failure(code="no_provider_available", message="None.", retry_after=10, details={"reasons": reasons})
        return OpenOutcome(operation_id=question.operation_id, error=error)

    await house.sessions.answer(OPEN_SESSION, failed)
    response = await house.http.post(OPEN, headers=house.by_key)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (503, "no_provider_available")
    assert error["details"] == {"reasons": reasons}
    assert response.headers["Retry-After"] == "10"


async def test_a_worker_that_dies_costs_its_caller_one_piece_of_the_wait(house: House) -> None:
    async def dies_once(question: OpenSession) -> OpenOutcome:
        if len(house.sessions.asked["open"]) == 1:
            # nothing is ever answered to this one
            await asyncio.sleep(3600)
        return await house.sessions.open(question)

    await house.sessions.answer(OPEN_SESSION, dies_once)
    begun = asyncio.get_running_loop().time()
    assert (await house.http.post(OPEN, headers=house.by_key)).status_code == 200
    took = asyncio.get_running_loop().time() - begun
    assert took < PIECE_SECONDS + ANSWER_MARGIN_SECONDS + 2
    first, second = house.sessions.asked["open"]
    assert first.operation_id == second.operation_id


async def test_a_client_that_leaves_does_not_stop_the_open(house: House) -> None:
    done = asyncio.Event()
    arrived = asyncio.Event()

    async def slow(question: OpenSession) -> OpenOutcome:
        arrived.set()
        await done.wait()
        return await house.sessions.open(question)

    await house.sessions.answer(OPEN_SESSION, slow)
    asking = asyncio.create_task(house.http.post(OPEN, headers=house.by_key))
    await arrived.wait()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    done.set()

    async def is_open() -> bool:
        return (await house.http.get("/api/v1/session", headers=house.by_key)).json() is not None

    assert await poll(is_open, seconds=5)


async def test_closing_tells_what_was_closed(house: House) -> None:
    await house.http.post(OPEN, headers=house.by_key)
    closed = await house.http.post("/api/v1/session/closesession", headers=house.by_key)
    assert closed.status_code == 200
    assert closed.json() == {"success": True, "message": "The session is closed.", "session_id": SESSION_ID}
    again = await house.http.post("/api/v1/session/closesession", headers=house.by_key)
    assert (again.status_code, again.json()["session_id"]) == (200, None)


async def test_a_close_that_the_chain_has_not_confirmed_is_202(make_house: MakeHouse) -> None:
    house = await make_house(close_wait=0.1)

    async def unconfirmed(_: CloseSession) -> CloseResult:
        return CloseResult(session_id=SESSION_ID, confirmed=False, operations=["c1", "c2"])

    await house.sessions.answer(CLOSE_SESSION, unconfirmed)
    response = await house.http.post("/api/v1/session/closesession", headers=house.by_key)
    assert (response.status_code, response.json()["status"]) == (202, "pending")
    assert (response.json()["operation_id"], response.json()["session_id"]) == ("c1", SESSION_ID)
    assert response.headers["Location"] == "/api/v1/session/operations/c1"
    asked = house.sessions.asked["close"]
    # a second look waits for what the first began, and closes nothing that was opened since
    assert [command.joins for command in asked] == [None, *[["c1", "c2"]] * (len(asked) - 1)]


async def test_the_current_session_is_shown_or_null(house: House) -> None:
    assert (await house.http.get("/api/v1/session", headers=house.by_key)).json() is None
    await house.http.post(OPEN, headers=house.by_key)
    shown = (await house.http.get("/api/v1/session", headers=house.by_key)).json()
    assert (shown["session_id"], shown["state"], shown["last_used_at"]) == (SESSION_ID, "active", None)


async def test_the_list_shows_each_session_with_what_it_is_doing(house: House) -> None:
    assert (await house.http.post(OPEN, headers=house.by_key)).status_code == 200
    row = house.sessions.session
    assert row is not None
    word = AutomationWord(decision="open", reason="automation_on", at=LONG_AGO)
    opening = row.model_copy(
        update={"state": SessionState.OPENING, "slot": Slot.NEXT, "session_id": None, "automation": word}
    )

    async def rows(_: ListKeySessions) -> KeySessions:
        return KeySessions(sessions=[opening, row])

    await house.sessions.answer(LIST_SESSIONS, rows)
    response = await house.http.get("/api/v1/session/list", headers=house.by_key)
    assert response.status_code == 200
    first, second = response.json()
    assert (first["state"], first["slot"], first["session_id"]) == ("opening", "next", None)
    assert first["automation"] == {"decision": "open", "reason": "automation_on", "at": "2026-01-02T03:04:05.000Z"}
    assert (second["state"], second["slot"], second["automation"]) == ("active", "current", None)
    assert second == (await house.http.get("/api/v1/session", headers=house.by_key)).json()
    await house.http.get("/api/v1/session/list?limit=2&ended=true", headers=house.by_key)
    assert [(asked.limit, asked.ended) for asked in house.sessions.asked["list"]] == [(50, False), (2, True)]
    for limit in (0, 101):
        refused = await house.http.get(f"/api/v1/session/list?limit={limit}", headers=house.by_key)
        assert refused.status_code == 422


async def test_a_quote_tells_stake_and_cost_as_strings_of_wei(house: House) -> None:
    async def quote(question: QuoteSession) -> SessionQuote:
        return SessionQuote(
            model_id=question.model_id or chain_id(1),
            bid_id=question.bid_id or chain_id(77),
            provider="0x" + "0b" * 20,
            price_per_second=10**10,
            duration=question.duration,
            cost=10**10 * question.duration,
            stake=317 * 10**10 * question.duration,
            affordable=True,
        )

    await house.sessions.answer(QUOTE_SESSION, quote)
    path = "/api/v1/session/quote"
    response = await house.http.get(f"{path}?model_id=mistral-small&duration=7200", headers=house.by_key)
    assert response.status_code == 200
    assert response.json() == {
        "model_id": chain_id(2),
        "bid_id": chain_id(77),
        "provider": "0x" + "0b" * 20,
        "price_per_second": "10000000000",
        "duration": 7200,
        "cost": "72000000000000",
        "stake": "22824000000000000",
        "affordable": True,
    }
    by_bid = await house.http.get(f"{path}?bid_id=0x{'AB' * 32}", headers=house.by_key)
    assert (by_bid.json()["bid_id"], by_bid.json()["duration"]) == ("0x" + "ab" * 32, 3600)


QUOTES_REFUSED = [
    ("", 422, "validation_error"),
    (f"?model_id=mistral-small&bid_id={chain_id(5)}", 422, "validation_error"),
    ("?bid_id=0x12", 422, "validation_error"),
    ("?model_id=mistral-small&duration=299", 422, "validation_error"),
    ("?model_id=mistral-small&duration=86401", 422, "validation_error"),
    ("?model_id=mistral-small&duration=1h", 422, "validation_error"),
    ("?model_id=mistral", 404, "model_not_found"),
]


NO_NUMBERS = ["600.0", "%20600", "600%20", "1_000", "%2B600", "0600", "6e2", "%D9%A6%D9%A0%D9%A0", "", "9" * 5000]


@pytest.mark.parametrize("number", NO_NUMBERS)
async def test_a_number_in_a_query_is_decimal_digits_and_nothing_else(house: House, number: str) -> None:
    for path, param in (("quote?model_id=mistral-small&duration=", "duration"), ("list?limit=", "limit")):
        response = await house.http.get(f"/api/v1/session/{path}{number}", headers=house.by_key)
        error = response.json()["error"]
        assert (response.status_code, error["code"], error["param"]) == (422, "validation_error", param)
        assert error["message"] == f"{param}: Write a whole number above zero in decimal digits."


async def test_a_parameter_that_stands_twice_is_named(house: House) -> None:
    quote = "/api/v1/session/quote?model_id=mistral-small&duration=600"
    response = await house.http.get(f"{quote}&duration=600", headers=house.by_key)
    assert (response.status_code, response.json()["error"]["param"]) == (422, "duration")
    odd = await house.http.get(f"{quote}&a%00b=1&a%00b=2", headers=house.by_key)
    assert (odd.status_code, odd.json()["error"]["param"]) == (422, None)


@pytest.mark.parametrize(("query", "status", "code"), QUOTES_REFUSED)
async def test_a_quote_that_makes_no_sense_is_refused(house: House, query: str, status: int, code: str) -> None:
    response = await house.http.get(f"/api/v1/session/quote{query}", headers=house.by_key)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


async def test_a_key_limited_to_models_is_quoted_no_other(house: House) -> None:
    house.key = house.auth.add_key(allowed_models=[chain_id(1)])
    for query in ("model_id=mistral-small", f"bid_id={chain_id(5)}"):
        response = await house.http.get(f"/api/v1/session/quote?{query}", headers=house.by_key)
        assert (response.status_code, response.json()["error"]["code"]) == (403, "model_not_allowed")


async def test_a_bid_id_may_be_written_in_capitals(house: House) -> None:
    path = f"/api/v1/session/bidsession?bid_id=0x{'AB' * 32}"
    assert (await house.http.post(path, headers=house.by_key)).status_code == 200
    assert house.sessions.asked["open"][0].bid_id == "0x" + "ab" * 32


# Idempotency-Key


async def test_an_idempotency_key_leaves_the_gateway_as_digests_only(house: House) -> None:
    headers = house.by_key | {"Idempotency-Key": "order-4711"}
    assert (await house.http.post(OPEN, headers=headers)).status_code == 200
    (command,) = house.sessions.asked["open"]
    assert command.idempotency is not None
    assert "order-4711" not in command.model_dump_json()


async def test_what_makes_two_requests_the_same(house: House) -> None:
    async def wish(path: str, *, name: str = "a", body: str = "", key: str | None = None) -> Idempotency:
        headers = {"Authorization": f"Bearer {key or house.key}", "Idempotency-Key": name}
        headers["Content-Type"] = "application/json"
        assert (await house.http.post(path, headers=headers, content=body)).status_code == 200
        sent: OpenSession = house.sessions.asked["open"][-1]
        assert sent.idempotency is not None
        return sent.idempotency

    first = await wish(OPEN, body='{"sessionDuration": 600, "failover": false}')
    assert await wish(OPEN, body='{"failover":false,"sessionDuration":600}') == first
    other_body = await wish(OPEN, body='{"sessionDuration": 601, "failover": false}')
    assert (other_body.digest, other_body.fingerprint != first.fingerprint) == (first.digest, True)
    other_query = await wish(OPEN.replace("mistral-small", "llama-3-3-70b"), body='{"sessionDuration": 600}')
    assert (other_query.digest, other_query.fingerprint != first.fingerprint) == (first.digest, True)
    assert await wish(OPEN) == await wish(OPEN, body="{}")
    others = [
        await wish(OPEN, name="b"),
        await wish(OPEN, key=house.auth.add_key()),
        await wish(f"/api/v1/session/bidsession?bid_id={chain_id(5)}"),
    ]
    assert len({first.digest, *(other.digest for other in others)}) == 4


async def test_an_unusable_idempotency_key_is_refused(house: House) -> None:
    for value in (b"", b"a b", b"x" * 256, b"\xe9"):
        credential = (b"Authorization", house.by_key["Authorization"].encode())
        response = await house.http.post(OPEN, headers=[credential, (b"Idempotency-Key", value)])
        assert (response.status_code, response.json()["error"]["code"]) == (422, "validation_error"), value
        assert response.json()["error"]["param"] == "Idempotency-Key"
    twice = [*house.by_key.items(), ("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    assert (await house.http.post(OPEN, headers=twice)).status_code == 422
    assert house.sessions.asked["open"] == []


async def test_a_body_nested_beyond_all_reason_is_no_trouble(house: House) -> None:
    headers = house.by_key | {"Idempotency-Key": "a", "Content-Type": "application/json"}
    deep = b"[" * 30_000 + b"]" * 30_000
    for path in (OPEN, "/api/v1/session/closesession"):
        response = await house.http.post(path, headers=headers, content=deep)
        assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_json")


JSON = "application/json"
BODIES: list[tuple[bytes, str | None, int, str]] = [
    (b"junk", "text/plain", 415, "unsupported_media_type"),
    (b"a=1", "application/x-www-form-urlencoded", 415, "unsupported_media_type"),
    (b'{"a":', JSON, 400, "invalid_json"),
    (b'{"a":', None, 400, "invalid_json"),
    (b"{} {}", f"{JSON}; charset=utf-8", 400, "invalid_json"),
    (b'{"a": NaN}', JSON, 400, "invalid_json"),
    (b'{"a": -Infinity}', JSON, 400, "invalid_json"),
    (b"\xef\xbb\xbf{}", JSON, 400, "invalid_json"),
    (b'{"a": "\xff"}', JSON, 400, "invalid_json"),
    ("{}".encode("utf-16"), JSON, 400, "invalid_json"),
    (b" ", JSON, 400, "invalid_json"),
    (b'{"sessionDuration": ' + b"9" * 5000 + b"}", JSON, 422, "validation_error"),
]


@pytest.mark.parametrize("path", [OPEN, f"/api/v1/session/bidsession?bid_id={chain_id(5)}", *NO_BODY])
async def test_a_body_is_json_or_there_is_none_wherever_it_is_sent(make_house: MakeHouse, path: str) -> None:
    house = await make_house(pings_per_minute=100)
    for body, content_type, status, code in BODIES:
        headers = house.by_key | ({} if content_type is None else {"Content-Type": content_type})
        for more in ({}, {"Idempotency-Key": "a"}):
            response = await house.http.post(path, headers=headers | more, content=body)
            assert (response.status_code, response.json()["error"]["code"]) == (status, code), (body, content_type)
    assert [house.sessions.asked[verb] for verb in ("open", "close", "approve")] == [[], [], []]
    assert house.worker.prompts == []
    anonymous = await house.http.post(path, content=b"{")
    assert anonymous.status_code == 401


@pytest.mark.parametrize("path", [OPEN, "/api/v1/session/closesession"])
async def test_a_body_that_says_nothing_is_as_good_as_none(house: House, path: str) -> None:
    for content in (b"", b"{}", b"null", b'{"unknown": 1.5e3}'):
        response = await house.http.post(path, headers=house.by_key | {"Content-Type": JSON}, content=content)
        assert response.status_code == 200, content
    assert (await house.http.post(OPEN, headers=house.by_key, json=[])).status_code == 422


async def test_a_repeat_says_that_it_is_one_in_success_and_in_failure(house: House) -> None:
    headers = house.by_key | {"Idempotency-Key": "a"}

    async def replayed(question: OpenSession) -> OpenOutcome:
        return (await house.sessions.open(question)).model_copy(update={"replayed": True})

    await house.sessions.answer(OPEN_SESSION, replayed)
    assert (await house.http.post(OPEN, headers=headers)).headers[REPLAYED_HEADER] == "true"

    async def failed(_: OpenSession) -> OpenOutcome:
        error = Failure(code="open_failed", message="It came to nothing.")
        return OpenOutcome(operation_id="o1", error=error, replayed=True)

    await house.sessions.answer(OPEN_SESSION, failed)
    response = await house.http.post(OPEN, headers=headers)
    assert (response.status_code, response.headers[REPLAYED_HEADER]) == (502, "true")


async def test_a_repeat_whose_own_wait_is_over_says_that_the_first_goes_on(make_house: MakeHouse) -> None:
    house = await make_house(open_wait=0.2, close_wait=0.2)
    headers = house.by_key | {"Idempotency-Key": "a"}

    async def pending(_: OpenSession) -> OpenOutcome:
        return OpenOutcome(operation_id="o1", replayed=True)

    async def closing(_: CloseSession) -> CloseResult:
        return CloseResult(session_id=SESSION_ID, confirmed=False, operations=["c1"], replayed=True)

    await house.sessions.answer(OPEN_SESSION, pending)
    await house.sessions.answer(CLOSE_SESSION, closing)
    for path, operation_id in ((OPEN, "o1"), ("/api/v1/session/closesession", "c1")):
        response = await house.http.post(path, headers=headers)
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (409, "idempotency_in_progress")
        assert error["details"] == {"operation_id": operation_id}
        assert response.headers["Location"] == f"/api/v1/session/operations/{operation_id}"
        assert "Retry-After" in response.headers


# operations


async def test_an_operation_is_shown_to_its_key(house: House) -> None:
    async def known(question: GetOperation) -> OperationRow:
        if question.operation_id != "o1":
            raise ApiError("operation_not_found")
        return OperationRow(
            id="o1",
            kind=OperationKind.OPEN,
            state=OperationProgress.SUCCEEDED,
            session_id=SESSION_ID,
            tx=None,
            error=None,
            created_at=LONG_AGO,
            updated_at=LONG_AGO,
        )

    await house.sessions.answer(GET_OPERATION, known)
    response = await house.http.get("/api/v1/session/operations/o1", headers=house.by_key)
    assert response.status_code == 200
    assert response.json() == {
        "id": "o1",
        "kind": "open",
        "state": "succeeded",
        "session_id": SESSION_ID,
        "tx": None,
        "error": None,
        "created_at": "2026-01-02T03:04:05.000Z",
        "updated_at": "2026-01-02T03:04:05.000Z",
    }
    missing = await house.http.get("/api/v1/session/operations/o2", headers=house.by_key)
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "operation_not_found")


async def still_opening(question: OpenSession) -> OpenOutcome:
    return OpenOutcome(operation_id=question.operation_id)


async def test_sessions_need_their_scope(house: House) -> None:
    house.key = house.auth.add_key(scopes=["chat"])
    response = await house.http.post(OPEN, headers=house.by_key)
    assert (response.status_code, response.json()["error"]["code"]) == (403, "insufficient_scope")


async def test_a_key_limited_to_models_opens_sessions_for_no_other(house: House) -> None:
    house.key = house.auth.add_key(allowed_models=[chain_id(1)])
    assert (await house.http.post(OPEN, headers=house.by_key)).status_code == 403
    by_bid = f"/api/v1/session/bidsession?bid_id={chain_id(5)}"
    assert (await house.http.post(by_bid, headers=house.by_key)).status_code == 403


# automation


async def test_automation_settings_by_token_and_by_key(house: House) -> None:
    path = "/api/v1/automation/settings"
    before = (await house.http.get(path, headers=house.by_token)).json()
    assert before.keys() == {"is_enabled", "session_duration", "user_id", "created_at", "updated_at"}
    assert (before["is_enabled"], before["session_duration"]) == (False, 3600)
    changed = (await house.http.put(path, json={"is_enabled": True}, headers=house.by_key)).json()
    assert (changed["is_enabled"], changed["session_duration"]) == (True, 3600)


async def test_automation_settings_out_of_bounds_are_refused(house: House) -> None:
    bodies: list[dict[str, object]] = [{"session_duration": 299}, {"session_duration": 86_401}, {"is_enabled": "yes"}]
    for body in bodies:
        response = await house.http.put("/api/v1/automation/settings", json=body, headers=house.by_token)
        assert response.status_code == 422, body


async def test_automation_needs_its_scope_from_a_key(house: House) -> None:
    house.key = house.auth.add_key(scopes=["chat"])
    for path in ("settings", "decisions"):
        assert (await house.http.get(f"/api/v1/automation/{path}", headers=house.by_key)).status_code == 403


async def test_decisions_are_those_of_the_presented_key_or_of_the_whole_user(house: House) -> None:
    house.automation.decisions = [DECISION]
    path = "/api/v1/automation/decisions"
    shown = (await house.http.get(f"{path}?limit=2", headers=house.by_key)).json()
    assert shown == [
        {
            "id": "decision-1",
            "decision": "renew",
            "reason": "ends_soon",
            "key_id": "key-1",
            "key_prefix": "sk-abcdef",
            "model_id": chain_id(1),
            "session_id": SESSION_ID,
            "duration": 900,
            "shortened_by": None,
            "operation_id": "operation-1",
            "error": None,
            "times": 1,
            "at": "2026-01-02T03:04:05.000Z",
            "last_at": "2026-01-02T03:04:05.000Z",
            "facts": {"seconds_left": "99"},
        }
    ]
    await house.http.get(path, headers=house.by_token)
    by_key, by_token = house.automation.asked["list_decisions"]
    assert by_key.user_id == by_token.user_id
    assert by_key.key_id is not None
    assert (by_key.limit, by_token.key_id, by_token.limit) == (2, None, 50)
    for limit in (0, 101, "two"):
        assert (await house.http.get(f"{path}?limit={limit}", headers=house.by_key)).status_code == 422


# pings


def pinged(answer: PingAnswer) -> Script:
    async def script(prompt: FakePrompt) -> None:
        await prompt.accept()
        await prompt.complete()
        await prompt.data(answer.model_dump_json().encode())
        await prompt.end()

    return script


PING = "/api/v1/session/pingsession"
PINGED: list[tuple[PingAnswer, bool, str]] = [
    (PingAnswer(status=PingStatus.ALIVE, session_id=SESSION_ID, latency_ms=42), True, "answers"),
    (PingAnswer(status=PingStatus.ALIVE, session_id=SESSION_ID), True, "busy"),
    (PingAnswer(status=PingStatus.DEAD, session_id=SESSION_ID), False, "being closed"),
    (PingAnswer(status=PingStatus.EXPIRED, session_id=SESSION_ID), False, "over"),
    (PingAnswer(status=PingStatus.NO_SESSION), False, "no session"),
]


@pytest.mark.parametrize(("answer", "success", "words"), PINGED)
async def test_a_ping_tells_how_the_session_is(house: House, answer: PingAnswer, success: bool, words: str) -> None:
    house.worker.script = pinged(answer)
    response = await house.http.post(PING, headers=house.by_key)
    assert response.status_code == 200
    body = response.json()
    assert words in body.pop("message")
    assert body == {
        "status": answer.status,
        "success": success,
        "session_id": answer.session_id,
        "latency_ms": answer.latency_ms,
    }
    (prompt,) = house.worker.prompts
    assert (prompt.head.ping, prompt.head.body_bytes, bytes(prompt.body)) == (True, 0, b"")
    assert prompt.head.key_id == house.auth.rows[api_keys.digest(house.key)].id


async def test_a_key_is_pinged_six_times_a_minute(house: House) -> None:
    house.worker.script = pinged(PingAnswer(status=PingStatus.NO_SESSION))
    for left in (5, 4, 3, 2, 1, 0):
        response = await house.http.post(PING, headers=house.by_key)
        assert response.status_code == 200
        assert response.headers["x-ratelimit-limit-requests"] == "6"
        assert response.headers["x-ratelimit-remaining-requests"] == str(left)
        assert response.headers["x-ratelimit-reset-requests"] == "1m0s"
    refused = await house.http.post(PING, headers=house.by_key)
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["type"]) == (429, "rate_limit_exceeded", "requests")
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert len(house.worker.prompts) == 6

    other = {"Authorization": f"Bearer {house.auth.add_key()}"}
    assert (await house.http.post(PING, headers=other)).status_code == 200


async def test_what_a_worker_reports_instead_of_a_ping_is_an_error(house: House) -> None:
    async def opening(prompt: FakePrompt) -> None:
        await prompt.accept()
        await prompt.complete()
        await prompt.error("session_opening", retry_after=5)

    house.worker.script = opening
    response = await house.http.post(PING, headers=house.by_key)
    assert (response.status_code, response.json()["error"]["code"]) == (503, "session_opening")
    await house.worker.stop()
    nobody = await house.http.post(PING, headers=house.by_key)
    assert (nobody.status_code, nobody.json()["error"]["code"]) == (503, "service_unavailable")
