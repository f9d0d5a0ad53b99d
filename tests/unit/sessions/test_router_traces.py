"""What a call to a router leaves in a trace, and what the router is told of it."""

from collections.abc import Iterator

import httpx2
import pytest
from morpheus_common.request_context import request_id
from morpheus_common.tracing import INTERNAL, RecordedSpan, begun, recorded
from morpheus_sessions.router import Approval, Router, RouterRefused
from morpheus_sessions.settings import RouterSettings
from pydantic import SecretStr

TRACE = "01890a5dac96774bbcceb302099a8057"
SESSION = "0x" + "ab" * 32
SPENDER = "0x" + "cd" * 20


@pytest.fixture
def spans() -> Iterator[list[RecordedSpan]]:
    ended: list[RecordedSpan] = []
    with recorded(ended.append, lambda *_: True):
        yield ended


def router_that_hears(heard: list[httpx2.Request], *, status: int = 200, tells_traces: bool = False) -> Router:
    def answer(request: httpx2.Request) -> httpx2.Response:
        heard.append(request)
        return httpx2.Response(status, stream=httpx2.ByteStream(b'{"tx": "0x1", "sessionID": "0x2", "block": 1}'))

    settings = RouterSettings(name="r1", url="http://u:secret@router.test", user="admin", password=SecretStr("secret"))
    router = Router(settings, read_timeout=5.0, tells_traces=tells_traces)
    router.http = httpx2.AsyncClient(base_url="http://u:secret@router.test", transport=httpx2.MockTransport(answer))
    return router


async def test_a_call_is_named_by_its_template_and_tells_no_id_no_amount_and_no_secret(
    spans: list[RecordedSpan],
) -> None:
    heard: list[httpx2.Request] = []
    router = router_that_hears(heard)
    with begun("wallet", INTERNAL, TRACE):
        await router.close(SESSION, timeout=5)
        await router.approve(SPENDER, 123_456_789, timeout=5)
        await router.open(Approval("0xaaaaaa", "0xbbbbbb"), 987_654_321, timeout=5)
    close, approve, open_, _ = spans
    assert close.name == "POST /blockchain/sessions/{id}/close"
    assert approve.name == "POST /blockchain/approve"
    assert open_.name == "POST /blockchain/sessions"
    assert close.attributes == {
        "http.request.method": "POST",
        "url.template": "/blockchain/sessions/{id}/close",
        "server.address": "router.test",
        "server.port": 80,
        "morpheus.router": "r1",
        "http.response.status_code": 200,
    }
    told = repr([(span.name, span.attributes) for span in spans])
    for secret in (SESSION, SPENDER, "123456789", "987654321", "aaaaaa", "bbbbbb", "secret"):
        assert secret not in told


@pytest.mark.parametrize("tells_traces", [False, True])
async def test_a_router_is_told_the_trace_only_if_a_setting_says_so(
    spans: list[RecordedSpan], *, tells_traces: bool
) -> None:
    heard: list[httpx2.Request] = []
    router = router_that_hears(heard, tells_traces=tells_traces)
    token = request_id.set("01890a5d-ac96-774b-bcce-b302099a8057")
    try:
        with begun("wallet", INTERNAL, TRACE):
            await router.latest_block()
    finally:
        request_id.reset(token)
    assert heard[0].headers["x-request-id"] == "01890a5d-ac96-774b-bcce-b302099a8057"
    expected = f"00-{TRACE}-{spans[0].span_id}-01" if tells_traces else None
    assert heard[0].headers.get("traceparent") == expected


async def test_a_refusal_is_a_failed_call_without_the_router_s_words(spans: list[RecordedSpan]) -> None:
    router = router_that_hears([], status=500)
    with begun("wallet", INTERNAL, TRACE):
        with pytest.raises(RouterRefused):
            await router.latest_block()
    assert (spans[0].error, spans[0].is_failure) == ("500", True)


async def test_what_is_read_in_the_background_leaves_no_trace(spans: list[RecordedSpan]) -> None:
    await router_that_hears([]).latest_block()
    assert spans == []
