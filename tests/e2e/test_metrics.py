"""What the four services show to Prometheus after people have done everything that the API lets them do, and much that it does not."""

import re
import secrets
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress

import httpx2
import pytest
from morpheus_common.metrics import MOST_SERIES
from morpheus_site.generated.metric_table import collectors, shown_by
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.e2e.house import SERVICES, Account, House
from tests.e2e.operations import ROWS, World

OF_ALL = {
    "morpheus_build_info",
    "morpheus_ready",
    "morpheus_event_loop_lag_seconds",
    "process_resident_memory_bytes",
    "python_gc_collections_total",
    "morpheus_bus_connected",
    "morpheus_bus_reconnects_total",
    "morpheus_bus_errors_total",
    "morpheus_log_records_total",
    "morpheus_rpc_client_seconds",
    "morpheus_rpc_client_total",
}
OF_THOSE_WHO_ANSWER = {
    "morpheus_rpc_server_seconds",
    "morpheus_rpc_server_total",
    "morpheus_database_seconds",
    "morpheus_database_errors_total",
    "morpheus_outbox_pending",
    "morpheus_outbox_oldest_seconds",
    "morpheus_outbox_published_total",
    "morpheus_outbox_failures_total",
}
OF_ONE = {
    "gateway": {
        "http_server_request_duration_seconds",
        "http_server_requests_total",
        "http_server_active_requests",
        "morpheus_errors_total",
        "gen_ai_server_request_duration_seconds",
        "gen_ai_server_time_to_first_token_seconds",
        "morpheus_overhead_seconds",
        "morpheus_streams",
        "morpheus_connections",
        "morpheus_limit_refusals_total",
        "morpheus_catalogue_age_seconds",
        "morpheus_models",
    },
    "auth": {
        "morpheus_logins_total",
        "morpheus_key_checks_total",
        "morpheus_password_hashes_waiting",
        "morpheus_deletions",
        "morpheus_deletion_oldest_seconds",
        "morpheus_key_encryption_up",
    },
    "sessions": {"morpheus_events_read_total", "morpheus_dead_letters_total", "morpheus_consumer_pending"},
    "automation": {
        "morpheus_decisions_total",
        "morpheus_renewal_pass_age_seconds",
        "morpheus_renewals_failed_total",
    },
}
"""What alerts and dashboards count on."""
WAITED_SECONDS = 30.0
IDS = {
    "id": re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}", re.IGNORECASE),
    "hex": re.compile(r"0x[0-9a-f]{6,}|\b[0-9a-f]{16,}\b", re.IGNORECASE),
    "key": re.compile(r"sk-|rt-[0-9A-Za-z_-]{20,}|eyJ[0-9A-Za-z_-]{8,}|\bS[UAOCN][A-Z2-7]{20,}"),
    "e-mail": re.compile(r"@|%40"),
    "address": re.compile(r"\b\d{1,3}(\.\d{1,3}){3}\b|://"),
    "long number": re.compile(r"\d{6,}"),
    "something long": re.compile(r".{65,}"),
}
"""What no value of a label looks like."""


def samples(text: str) -> list[Sample]:
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def names(text: str) -> set[str]:
    """Return what is shown with a value: of a histogram its own name."""
    return {re.sub(r"_(bucket|count|sum)$", "", sample.name) for sample in samples(text)}


def values(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield each value of a label with its metric and label; where a bucket ends is a number of the code's."""
    for sample in samples(text):
        yield from ((sample.name, label, value) for label, value in sample.labels.items() if label != "le")


def strange(text: str) -> list[str]:
    return sorted(
        {
            f"{name}{{{label}}} looks like {kind}: {value[:80]}"
            for name, label, value in values(text)
            for kind, pattern in IDS.items()
            if pattern.search(value)
        }
    )


def do_everything(house: House, account: Account, word: str) -> None:
    """Call each operation as it is meant, with a name that nobody has, without a credential, and with nothing that fits."""
    quote = house.http.get("session/quote", params={"model_id": house.llm}, headers=account.by_key).json()
    ids = {"key": account.key_id, "operation": account.key_id}
    world = World(
        account.email,
        account.password,
        account.refresh_token,
        ids,
        house.llm,
        house.embedder,
        quote["bid_id"],
        word=word,
    )
    for operation, row in ROWS.items():
        if row.ends:
            continue
        by = account.by_key if row.access.takes_keys else account.by_token
        method, _, path = operation.partition(" ")
        for name, kind in row.objects.items():
            path = path.replace(f"{{{name}}}", ids.get(kind, world.word))
        url = house.stack.gateway_url + re.sub(r"{\w+}", word, path)
        body = None if row.body is None else row.body(world)
        ask = house.http.request
        if method != "DELETE":
            ask(method, url, json=body, headers=by, params=row.query(world))
        ask(method, url, json=body, params=row.query(world))
        ask(method, url, content=f'{{"{word}": "{word}'.encode(), headers={**by, "Content-Type": word})
        ask("PROPFIND", url, headers=by)


def do_what_no_operation_is(house: House, account: Account, word: str) -> None:
    """Paths, methods, models, keys and headers of a stranger's choice."""
    url = house.stack.gateway_url
    for path in (f"/{word}", f"/api/v1/{word}/{account.key_id}", f"/docs/{word}", f"/v1/models/{word}", f"/%40{word}"):
        for method in ("GET", "HEAD", "POST", "DELETE", "OPTIONS", "TRACE", "MKCOL"):
            httpx2.request(method, url + path, headers={"Authorization": f"Bearer sk-{word}.{word}"}, timeout=10)
    preflight = {"Origin": f"https://{word}.example", "Access-Control-Request-Method": "POST"}
    httpx2.options(url + "/v1/chat/completions", headers=preflight, timeout=10)
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as raw, suppress(ConnectionError):
        raw.sendall(f"{word} / HTTP/1.1\r\nHost: {word}\r\n\r\n".encode())
        raw.recv(1_000)
    for text in ("hello", word):
        assert house.chat(account, text).status_code == 200
        assert house.chat(account, text, stream=True).status_code == 200
    assert house.chat(account, word, model=word).status_code == 404
    house.embed(account, word)
    # what auth asks of other services
    deleted = house.http.delete("auth/register", headers=house.new_account(automation=False).by_token)
    assert deleted.is_success


@pytest.fixture(scope="module")
def word() -> str:
    """A word that stands for whatever people write."""
    return f"w{secrets.token_hex(12)}"


@pytest.fixture(scope="module")
def metrics(house: House, account: Account, word: str) -> Mapping[str, str]:
    """What each service shows after all that."""
    do_everything(house, house.new_account(automation=True), word)
    do_what_no_operation_is(house, account, word)
    # events are read, the outbox is counted and deletions are every few seconds
    house.eventually(
        lambda: all(wanted(service) <= names(text) for service, text in house.metrics().items()),
        seconds=WAITED_SECONDS,
        what=f"metric of {[sorted(wanted(service) - names(text)) for service, text in house.metrics().items()]}",
    )
    return house.metrics()


def wanted(service: str) -> set[str]:
    return OF_ALL | OF_ONE[service] | (set() if service == "gateway" else OF_THOSE_WHO_ANSWER)


@pytest.mark.parametrize("service", SERVICES)
def test_a_process_shows_all_that_alerts_and_dashboards_count_on(metrics: Mapping[str, str], service: str) -> None:
    """C49."""
    assert sorted(wanted(service) - names(metrics[service])) == []
    shown = {sample.name: sample.value for sample in samples(metrics[service]) if not sample.labels}
    assert shown["morpheus_bus_connected"] == 1
    assert shown.get("morpheus_key_encryption_up", 1) == 1


@pytest.mark.parametrize("service", SERVICES)
def test_a_process_shows_few_series_and_no_label_names_anybody(
    metrics: Mapping[str, str], service: str, word: str, account: Account
) -> None:
    """C49: no user, key, session, model, provider or address; nothing that a caller wrote."""
    text = metrics[service]
    assert 20 < len(samples(text)) < MOST_SERIES
    assert strange(text) == []
    for planted in (word, account.email, account.key, account.key_id, account.password, "hello"):
        assert planted not in text


@pytest.mark.parametrize("service", SERVICES)
def test_what_a_process_shows_is_in_the_documentation(metrics: Mapping[str, str], service: str) -> None:
    """The page is made from what is declared: a metric that is made elsewhere would be missing there."""
    described = {
        shown.name
        for collector, services in collectors().items()
        if service in services
        for shown in shown_by(collector)
    }
    assert sorted(names(metrics[service]) - described) == []


@pytest.mark.parametrize(
    "value",
    [
        "018f3b6e-7c1a-7b1e-9c55-0123456789ab",
        "0x9a3f0c5512",
        "sk-abc123.0123456789abcdefghij",
        "ada@example.com",
        "127.0.0.1",
        "x" * 70,
    ],
)
def test_a_label_that_names_somebody_would_be_found(value: str) -> None:
    """C49: the search itself."""
    assert strange(f'some_total{{by="{value}"}} 1.0\n')


def test_there_are_no_metrics_on_the_public_port(house: House) -> None:
    """C53."""
    for path in ("/metrics", "/api/v1/metrics", "/api/metrics"):
        answer = house.http.get(house.stack.gateway_url + path)
        assert answer.status_code == 404
        assert "morpheus_ready" not in answer.text
