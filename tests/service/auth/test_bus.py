import json

import pytest
from morpheus_auth.settings import AuthSettings
from morpheus_auth.worker import serve
from morpheus_common.bus.names import User
from morpheus_common.contracts.auth import CHECK_KEY, LOGIN, REGISTER, Login, Register
from morpheus_common.contracts.base import Empty
from morpheus_common.contracts.health import PING
from morpheus_common.errors import ApiError
from morpheus_common.ids import uuid7
from morpheus_common.request_context import request_id
from pydantic import SecretStr

from tests.servers import NatsAccount
from tests.service.auth.harness import PASSWORD, Gateway, new_key, until, wiretap


@pytest.mark.usefixtures("gateway")
async def test_a_question_that_does_not_fit_is_answered_at_once(nats_streams: NatsAccount) -> None:
    connection = await nats_streams.connect(User.GATEWAY)
    for payload in (b"", b"\xff not json", b"[]", b"{}", b'{"sha256": "not a digest"}'):
        answer = json.loads((await connection.request(CHECK_KEY.subject, payload, timeout=2)).data)
        assert answer["error"]["code"] == "validation_error", payload
        assert "not a digest" not in str(answer)
    await connection.close()


async def test_what_was_sealed_for_another_request_or_question_does_not_open(gateway: Gateway) -> None:
    request_id.set(uuid7())
    for_login = await gateway.seal(PASSWORD, LOGIN)
    for_register = await gateway.seal(PASSWORD, REGISTER)
    with pytest.raises(ApiError, match="service_unavailable"):
        await gateway.rpc.call(REGISTER, Register(email="ada@example.com", name=None, password=for_login))
    request_id.set(uuid7())
    with pytest.raises(ApiError, match="service_unavailable"):
        await gateway.rpc.call(REGISTER, Register(email="ada@example.com", name=None, password=for_register))


async def test_an_answer_is_sealed_to_a_proper_key_only(gateway: Gateway) -> None:
    await gateway.register("ada@example.com")
    question = Login(email="ada@example.com", password=await gateway.seal(PASSWORD, LOGIN), answer_key="no key")
    with pytest.raises(ApiError) as refused:
        await gateway.rpc.call(LOGIN, question)
    assert (refused.value.code, refused.value.param) == ("validation_error", "answer_key")


async def test_ping_tells_who_answers_and_that_the_database_is_there(gateway: Gateway) -> None:
    health = await gateway.rpc.call(PING[User.AUTH], Empty())
    assert (health.worker, health.components) == ("auth-1", {"database": True})


async def test_while_the_database_is_away_every_question_is_answered_and_ping_says_so(
    settings: AuthSettings, mongo_url: str, idle_gateway: Gateway
) -> None:
    key = new_key()

    async def database_is(state: bool) -> bool:
        return (await idle_gateway.rpc.call(PING[User.AUTH], Empty())).components == {"database": state}

    async with wiretap(mongo_url) as tap:
        url = SecretStr(f"mongodb://{tap.address}/?directConnection=true")
        async with serve(settings.model_copy(update={"mongo_url": url, "mongo_timeout_ms": 300})):
            ada = await idle_gateway.register("ada@example.com")
            await idle_gateway.create_key(ada.id, key)
            tap.cut()
            with pytest.raises(ApiError, match="service_unavailable"):
                await idle_gateway.check_key(key)
            await until(lambda: database_is(False))
            tap.mend()
            await until(lambda: database_is(True))
            assert (await idle_gateway.check_key(key)).user_id == ada.id
