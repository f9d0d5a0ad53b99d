"""What a collector is sent of a request: one trace through all services, and nothing of what was said in it."""

import os
import secrets
import signal
import time

import httpx2

from tests.collector import Collector, Seen
from tests.e2e.house import Account, House
from tests.e2e.secret_search import Planted, search
from tests.e2e.stack import RunningStack
from tests.e2e.test_session_endpoints import fault

SECONDS = 15.0
END_SECONDS = 10.0 + 2.0 + 3.0
"""A stack's drain, what is given to the last spans, and a busy machine."""


def trace_of(house: House, collector: Collector, answer: httpx2.Response, *names: str) -> dict[str, Seen]:
    """Return all spans that belong to a request, by name, as soon as these are among them; of several the last that began."""
    trace = answer.headers["x-request-id"].replace("-", "")

    def found() -> dict[str, Seen]:
        return {f"{span.service}: {span.name}": span for span in collector.of_trace(trace)}

    # what is on its way from another process is no gap
    house.eventually(
        lambda: set(names) <= set(found()) and not alone(collector.of_trace(trace)),
        seconds=SECONDS,
        what=f"{set(names) - set(found())} in one trace",
    )
    return found()


def alone(spans: list[Seen]) -> list[Seen]:
    """Return all spans but the first that do not belong to another of them: as a part, or by a link to what asked for it."""
    ids = {(span.trace, span.id) for span in spans}
    above = [(span, {(span.trace, span.parent)} if span.parent else set(span.links)) for span in spans]
    first = [span for span, these in above if not these]
    return first[1:] + [span for span, these in above if not these <= ids]


def parents(spans: dict[str, Seen], name: str) -> list[str]:
    """Return what a span is a part of, or linked to, up to the first."""
    by_id = {span.id: name for name, span in spans.items()}
    chain: list[str] = []
    while True:
        span = spans[name]
        above = span.parent or (span.links[0][1] if span.links else "")
        if not above:
            return chain
        name = by_id[above]
        chain.append(name)


def test_a_first_chat_is_one_trace_from_http_to_the_router_and_the_chain(house: House, collector: Collector) -> None:
    account = house.new_account(automation=True)
    prompt = f"the words of a prompt {secrets.token_hex(8)}"
    answer = house.chat(account, prompt)
    assert answer.status_code == 200
    worker = f"sessions: chat {house.llm}"
    http = "gateway: POST /api/v1/chat/completions"
    spans = trace_of(
        house,
        collector,
        answer,
        http,
        worker,
        "automation: automation/plan_chat",
        "sessions: POST /v1/chat/completions",
        "sessions: POST /proxy/sessions/initiate",
        "sessions: POST /blockchain/sessions",
        "sessions: send evt.sessions.session.opened.v1",
    )
    assert parents(spans, "sessions: POST /v1/chat/completions") == [worker, "gateway: relay prompt", http]
    assert parents(spans, "automation: automation/plan_chat") == [
        "sessions: automation/plan_chat",
        "sessions: open session",
        worker,
        "gateway: relay prompt",
        http,
    ]
    assert parents(spans, "sessions: POST /blockchain/sessions")[:2] == [
        "sessions: wallet open",
        "sessions: open session",
    ]
    assert spans[http].attributes == {
        "http.request.method": "POST",
        "http.route": "/api/v1/chat/completions",
        "http.response.status_code": 200,
        "url.scheme": "http",
        "morpheus.request_id": answer.headers["x-request-id"],
    }
    assert (spans[http].kind, spans[worker].kind) == ("server", "server")
    usage = answer.json()["usage"]
    said = spans[worker].attributes
    assert said["gen_ai.operation.name"] == "chat"
    assert said["gen_ai.provider.name"] == "morpheus"
    assert said["gen_ai.request.model"] == house.llm
    assert said["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]
    assert said["gen_ai.usage.output_tokens"] == usage["completion_tokens"]
    assert spans["sessions: open session"].attributes == {"morpheus.decision": "open"}
    router = spans["sessions: POST /v1/chat/completions"]
    assert router.attributes["http.response.status_code"] == 200
    assert router.kind == "client"
    assert not any(span.failed for span in spans.values())

    text = answer.json()["choices"][0]["message"]["content"]
    planted = {
        "prompt": prompt,
        "answer": text,
        "key": account.key,
        "password": account.password,
        "e-mail": account.email,
    }
    planted |= {"user": house.http.get("auth/me", headers=account.by_token).json()["id"], "key id": account.key_id}
    assert len(text) > 10
    assert search({what: Planted(word) for what, word in planted.items()}, {"traces": collector.received}) == []


def test_a_session_opened_by_hand_is_traced_to_the_chain_and_its_close_back_to_the_event_that_asked(
    house: House, collector: Collector
) -> None:
    account = house.new_account(automation=False)
    opened = house.http.post("session/modelsession", params={"model_id": house.llm}, json={}, headers=account.by_key)
    assert opened.status_code == 200, opened.text
    asked = ["sessions: sessions/open", "gateway: sessions/open", "gateway: POST /api/v1/session/modelsession"]
    spans = trace_of(house, collector, opened, *asked, "sessions: POST /blockchain/sessions", "sessions: wallet open")
    assert parents(spans, "sessions: POST /blockchain/sessions") == ["sessions: wallet open", *asked]

    gone = house.http.delete(f"auth/keys/{account.key_id}", headers=account.by_token)
    assert gone.is_success, gone.text
    event = "evt.auth.key.deactivated.v1"
    sent, read, close = f"auth: send {event}", f"sessions: process {event}", "sessions: wallet close"
    on_chain = "sessions: POST /blockchain/sessions/{id}/close"
    spans = trace_of(house, collector, gone, sent, read, close, on_chain)
    asked = ["auth: auth/deactivate_key", "gateway: auth/deactivate_key", "gateway: DELETE /api/v1/auth/keys/{key_id}"]
    assert parents(spans, sent) == asked
    assert parents(spans, on_chain) == [close, read, *asked]
    assert (spans[sent].kind, spans[read].kind) == ("producer", "consumer")
    assert spans[read].attributes["messaging.consumer.group.name"] == "sessions-keys"


def test_what_fails_says_so_where_it_failed_by_its_code(house: House, account: Account, collector: Collector) -> None:
    assert house.chat(account, "hello").status_code == 200
    with fault(house, "chat", "error_before"):
        answer = house.chat(account, "hello", stream=False)
    assert answer.status_code >= 500
    code = answer.json()["error"]["code"]
    http, worker = "gateway: POST /api/v1/chat/completions", f"sessions: chat {house.llm}"
    spans = trace_of(house, collector, answer, http, worker, "sessions: POST /v1/chat/completions")
    assert spans[http].attributes["error.type"] == str(answer.status_code)
    assert spans[worker].attributes["error.type"] == code
    assert all(spans[name].failed for name in (http, worker, "sessions: POST /v1/chat/completions"))

    refused = house.chat(house.new_account(automation=False), "hello")
    assert refused.status_code == 400
    spans = trace_of(house, collector, refused, http, "gateway: relay prompt")
    assert spans["gateway: relay prompt"].attributes["error.type"] == refused.json()["error"]["code"]
    assert not spans[http].failed, "what a client did wrong is no failure of ours"


def test_a_stranger_s_trace_is_linked_to_and_not_continued(house: House, collector: Collector) -> None:
    theirs = {"traceparent": f"00-{'a' * 31}1-{'b' * 16}-00"}
    answer = house.http.get("auth/me", headers=theirs | {"Authorization": "Bearer x"})
    assert answer.status_code == 401
    trace = answer.headers["x-request-id"].replace("-", "")
    name = "GET /api/v1/auth/me"
    house.eventually(
        lambda: any(span.trace == trace and span.name == name for span in collector.spans()),
        seconds=SECONDS,
        what="span",
    )
    (span,) = [span for span in collector.spans() if span.trace == trace and span.name == name]
    assert (span.parent, span.links) == ("", ((f"{'a' * 31}1", "b" * 16),))


def test_a_collector_that_hangs_is_noticed_by_nobody_and_holds_no_process_up(
    house: House, stack: RunningStack, account: Account, collector: Collector
) -> None:
    assert house.chat(account, "before").status_code == 200
    with collector.hanging():
        before = collector.waiting
        began = time.monotonic()
        for _ in range(2):
            assert house.chat(account, "meanwhile").status_code == 200
        assert time.monotonic() - began < SECONDS
        house.eventually(lambda: collector.waiting > before, seconds=SECONDS, what="call to the collector")
        told_at = time.monotonic()
        gone = [stack.send(service, signal.SIGTERM) for service in ("gateway", "automation")]
        house.eventually(lambda: not any(runs(pid) for pid in gone), seconds=END_SECONDS, what="end of the processes")
        assert time.monotonic() - told_at < END_SECONDS
    house.eventually(house.is_ready, seconds=20, what="readiness")
    fresh = house.new_key(account)
    house.eventually(
        lambda: house.chat(fresh, "after").status_code == 200, seconds=20, what="answer that needs all parts"
    )


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
