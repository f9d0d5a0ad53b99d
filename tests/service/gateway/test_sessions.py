"""Sessions and automation over HTTP."""

import asyncio

from morpheus_common.contracts.sessions import (
    CLOSE_SESSION,
    OPEN_SESSION,
    CloseResult,
    CloseSession,
    OpenSession,
    SessionRow,
)
from morpheus_common.errors import ApiError
from morpheus_devstack.waiting import poll

from tests.service.gateway.conftest import House, MakeHouse
from tests.service.gateway.fakes import SESSION_ID, chain_id

OPEN = "/api/v1/session/modelsession?model_id=mistral-small"


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
    assert (command.model_id, command.bid_id, command.duration, command.wait) == (chain_id(2), None, 600, 100.0)


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


async def test_a_command_nobody_was_there_for_is_repeated_with_the_same_id(house: House) -> None:
    async def away_once(question: OpenSession) -> SessionRow:
        if len(house.sessions.asked["open"]) == 1:
            raise ApiError("service_unavailable")
        return await house.sessions._open(question)

    await house.sessions.answer(OPEN_SESSION, away_once)
    assert (await house.http.post(OPEN, headers=house.by_key)).status_code == 200
    first, second = house.sessions.asked["open"]
    assert first == second


async def test_an_open_that_takes_long_names_its_operation(house: House) -> None:
    async def pending(question: OpenSession) -> SessionRow:
        raise ApiError("session_pending", details={"operation_id": question.operation_id})

    await house.sessions.answer(OPEN_SESSION, pending)
    response = await house.http.post(OPEN, headers=house.by_key)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (504, "session_pending")
    assert error["details"]["operation_id"] == house.sessions.asked["open"][0].operation_id


async def test_a_client_that_leaves_does_not_stop_the_open(house: House) -> None:
    done = asyncio.Event()
    arrived = asyncio.Event()

    async def slow(question: OpenSession) -> SessionRow:
        arrived.set()
        await done.wait()
        return await house.sessions._open(question)

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

    async def unconfirmed(question: CloseSession) -> CloseResult:
        return CloseResult(session_id=SESSION_ID, confirmed=False, operation_id=question.operation_id)

    await house.sessions.answer(CLOSE_SESSION, unconfirmed)
    response = await house.http.post("/api/v1/session/closesession", headers=house.by_key)
    assert (response.status_code, response.json()["status"]) == (202, "pending")
    assert response.json()["operation_id"] == house.sessions.asked["close"][0].operation_id


async def test_the_current_session_is_shown_or_null(house: House) -> None:
    assert (await house.http.get("/api/v1/session", headers=house.by_key)).json() is None
    await house.http.post(OPEN, headers=house.by_key)
    shown = (await house.http.get("/api/v1/session", headers=house.by_key)).json()
    assert (shown["session_id"], shown["state"], shown["last_used_at"]) == (SESSION_ID, "active", None)


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
    assert (await house.http.get("/api/v1/automation/settings", headers=house.by_key)).status_code == 403
