"""The dashboards of Grafana, written from here into `dashboards/`: `make monitoring`.

A panel is a question somebody has who looks at it; its description says what is usual, and what to do when it is not is in the
runbooks. Nothing in a dashboard names a data source: it is chosen at the top.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parent / "dashboards"
SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS: Final = 24
WIDTH: Final = 8
HEIGHT: Final = 8
CHAT: Final = 'http_route=~".*/(chat/completions|embeddings)"'
PROCESSES: Final = 'job=~"morpheus-(gateway|auth|sessions|automation)"'

SECONDS = "s"
PER_SECOND = "cps"
SHARE = "percentunit"
NUMBER = "short"
BYTES = "bytes"
CORES = "suffix: cores"
MOR = "suffix: MOR"
ETH = "suffix: ETH"


@dataclass(frozen=True, slots=True)
class Panel:
    """A graph. `queries`: the expressions, each with the name of its lines, in which `{{label}}` stands for a label."""

    title: str
    unit: str
    queries: Sequence[tuple[str, str]]
    description: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under one heading."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One dashboard. `uid` is in its address, and so in people's bookmarks."""

    uid: str
    title: str
    rows: Sequence[Row]


def quantile(share: float, histogram: str, *by: str) -> str:
    """Return a percentile of a histogram."""
    return (
        f"histogram_quantile({share}, sum by ({', '.join((*by, 'le'))}) (rate({histogram}_bucket[$__rate_interval])))"
    )


def quantiles(histogram: str, *by: str, legend: str = "") -> list[tuple[str, str]]:
    """Return the median and the 95th and 99th percentile of a histogram."""
    shares = (0.5, 0.95, 0.99)
    return [(quantile(share, histogram, *by), f"{legend} p{share * 100:.0f}".strip()) for share in shares]


def rate(counter: str, *by: str, of: str = "") -> str:
    """Return how often a counter rises in a second."""
    grouped = f" by ({', '.join(by)})" if by else ""
    return f"sum{grouped} (rate({counter}{{{of}}}[$__rate_interval]))"


TRAFFIC = Dashboard(
    "morpheus-traffic",
    "Morpheus: traffic",
    [
        Row(
            "What users get",
            [
                Panel(
                    "Prompts by status",
                    PER_SECOND,
                    [
                        (
                            rate("http_server_requests_total", "http_response_status_code", of=CHAT),
                            "{{http_response_status_code}}",
                        )
                    ],
                    "Chat and embeddings. A stream that fails after its first bytes stays a 200: see the next panel.",
                ),
                Panel(
                    "Prompts that fail on our side",
                    SHARE,
                    [
                        ("morpheus:chat_failures:ratio_rate5m", "5 minutes"),
                        ("morpheus:chat_failures:ratio_rate1h", "1 hour"),
                        ("morpheus:chat_failures:ratio_rate6h", "6 hours"),
                    ],
                    "Broken streams included. The month's budget is 0.5 %.",
                ),
                Panel(
                    "Errors by code",
                    PER_SECOND,
                    [(rate("morpheus_errors_total", "code") + " > 0", "{{code}}")],
                    "As clients are told, within streams too. What each means is on the page of errors.",
                ),
                Panel(
                    "First byte of a stream",
                    SECONDS,
                    quantiles("gen_ai_server_time_to_first_token_seconds"),
                    "The provider and the opening of a session are in it.",
                ),
                Panel(
                    "What we add to it",
                    SECONDS,
                    quantiles("morpheus_overhead_seconds"),
                    "Neither the provider nor opens nor the wait for an earlier prompt. A few milliseconds.",
                ),
                Panel(
                    "Whole answers",
                    SECONDS,
                    quantiles("gen_ai_server_request_duration_seconds", "mode", legend="{{mode}}"),
                ),
            ],
        ),
        Row(
            "Prompts on their way",
            [
                Panel(
                    "In flight",
                    NUMBER,
                    [
                        ("sum(morpheus_streams)", "streams at gateways"),
                        ("sum(morpheus_prompts_running)", "running at workers"),
                        ("sum(morpheus_prompts_waiting)", "waiting at workers"),
                        ("sum(http_server_active_requests)", "requests"),
                    ],
                ),
                Panel(
                    "Prompts by outcome",
                    PER_SECOND,
                    [(rate("morpheus_prompts_total", "outcome"), "{{outcome}}")],
                    "As session workers saw them end.",
                ),
                Panel(
                    "What prompts wait for",
                    SECONDS,
                    [(quantile(0.95, "morpheus_prompt_wait_seconds", "stage"), "{{stage}} p95")],
                    "queue: others of their key. claim: the database. open: the chain.",
                ),
                Panel(
                    "How prompts end at gateways",
                    PER_SECOND,
                    [(rate("gen_ai_server_request_duration_seconds_count", "mode", "outcome"), "{{mode}} {{outcome}}")],
                    "left: the client went before its answer was whole.",
                ),
                Panel(
                    "Calls of providers",
                    SECONDS,
                    quantiles("gen_ai_client_operation_duration_seconds", "router", legend="{{router}}"),
                ),
                Panel(
                    "Tokens",
                    PER_SECOND,
                    [(rate("gen_ai_client_token_usage_total", "gen_ai_token_type"), "{{gen_ai_token_type}}")],
                ),
            ],
        ),
        Row(
            "At the edge",
            [
                Panel(
                    "Requests by route",
                    PER_SECOND,
                    [(rate("http_server_requests_total", "http_route"), "{{http_route}}")],
                ),
                Panel(
                    "Slowest routes",
                    SECONDS,
                    [
                        (
                            f"topk(10, {quantile(0.95, 'http_server_request_duration_seconds', 'http_route')})",
                            "{{http_route}} p95",
                        )
                    ],
                ),
                Panel(
                    "Refused by limits",
                    PER_SECOND,
                    [(rate("morpheus_limit_refusals_total", "limit"), "{{limit}}")],
                ),
                Panel("Connections", NUMBER, [("sum by (instance) (morpheus_connections)", "{{instance}}")]),
                Panel(
                    "Store of limits",
                    NUMBER,
                    [("min by (instance) (morpheus_limit_store_up)", "{{instance}}")],
                    "1: gateways count together. 0: each counts for itself. Nothing: none is set.",
                ),
                Panel(
                    "List of models",
                    SECONDS,
                    [("max by (instance) (morpheus_catalogue_age_seconds)", "{{instance}}")],
                    "Its age. Half a minute is usual.",
                ),
                Panel("Models", NUMBER, [("max by (instance) (morpheus_models)", "{{instance}}")]),
                Panel("Logins", PER_SECOND, [(rate("morpheus_logins_total", "outcome"), "{{outcome}}")]),
                Panel("Keys looked up", PER_SECOND, [(rate("morpheus_key_checks_total", "outcome"), "{{outcome}}")]),
            ],
        ),
    ],
)

STAKE = Dashboard(
    "morpheus-stake",
    "Morpheus: sessions and stake",
    [
        Row(
            "What is at stake",
            [
                Panel(
                    "Stake",
                    MOR,
                    [
                        ('max by (kind) (morpheus_stake_wei{kind!="at_risk"}) / 1e18', "{{kind}}"),
                        ('max(morpheus_stake_wei{kind="at_risk"}) / 1e18', "at risk, in all"),
                        ("max(morpheus_stake_limit_wei) / 1e18", "limit"),
                    ],
                ),
                Panel(
                    "Free in wallets",
                    MOR,
                    [('max by (router) (morpheus_wallet_wei{token="MOR"}) / 1e18', "{{router}}")],
                ),
                Panel(
                    "Gas in wallets",
                    ETH,
                    [('max by (router) (morpheus_wallet_wei{token="ETH"}) / 1e18', "{{router}}")],
                    "Under LEAST_GAS a wallet is given no opens.",
                ),
                Panel("Sessions", NUMBER, [("max by (state) (morpheus_sessions)", "{{state}}")]),
                Panel(
                    "Sessions at rest",
                    NUMBER,
                    [("max(morpheus_sessions_quarantined)", "quarantined")],
                    "The end of their last prompt was not seen.",
                ),
                Panel(
                    "Sessions by worker",
                    NUMBER,
                    [
                        ("sum by (instance) (morpheus_sessions_owned)", "{{instance}}"),
                        ("max(morpheus_routers_left_behind)", "routers taken out with sessions on them"),
                    ],
                ),
            ],
        ),
        Row(
            "What must stay at zero",
            [
                Panel(
                    "Invariants",
                    NUMBER,
                    [("max by (invariant) (morpheus_invariant_violations)", "{{invariant}}")],
                    "How often each is broken.",
                ),
                Panel(
                    "Lost, foreign, suspect",
                    NUMBER,
                    [
                        (
                            'max by (router, finding) (morpheus_pass_findings{finding=~"lost|foreign|suspect"})',
                            "{{router}} {{finding}}",
                        )
                    ],
                ),
                Panel(
                    "Closes that are stuck",
                    NUMBER,
                    [
                        ("max(morpheus_close_stuck)", "sessions"),
                        ("max(morpheus_close_stuck_providers)", "providers"),
                    ],
                ),
                Panel(
                    "Overlapping calls",
                    NUMBER,
                    [("max by (router) (morpheus_chain_call_overlaps)", "{{router}}")],
                    "Ever, of each wallet. It rises by one when a process dies in a call.",
                ),
                Panel(
                    "Frames refused",
                    PER_SECOND,
                    [(rate("morpheus_frames_refused_total", "frame"), "{{frame}}")],
                    "Frames of gateways for a prompt that is over. Some are usual.",
                ),
                Panel(
                    "Taken over from workers that died",
                    PER_SECOND,
                    [(rate("morpheus_sessions_taken_over_total", "mark"), "{{mark}}")],
                ),
            ],
        ),
        Row(
            "Operations",
            [
                Panel("Operations", NUMBER, [("max by (kind, state) (morpheus_operations)", "{{kind}} {{state}}")]),
                Panel(
                    "The oldest that is not stuck",
                    SECONDS,
                    [("max by (kind, state) (morpheus_operation_oldest_seconds)", "{{kind}} {{state}}")],
                ),
                Panel(
                    "In line for a wallet",
                    NUMBER,
                    [("max(morpheus_wallet_queue)", "waiting")],
                ),
                Panel(
                    "What passes find and do",
                    NUMBER,
                    [("max by (finding) (morpheus_pass_findings) > 0", "{{finding}}")],
                ),
                Panel(
                    "Age of the last complete pass",
                    SECONDS,
                    [("min by (router) (morpheus_pass_age_seconds)", "{{router}}")],
                    "Fifteen seconds are usual.",
                ),
                Panel(
                    "Age of these figures",
                    SECONDS,
                    [
                        ("min(morpheus_gauges_age_seconds)", "age"),
                        ("max(morpheus_gauges_read_seconds)", "time to read them"),
                    ],
                ),
            ],
        ),
        Row(
            "Routers and chain",
            [
                Panel("Routers that answer", NUMBER, [("max by (router) (morpheus_router_up)", "{{router}}")]),
                Panel("Chain nodes that answer", NUMBER, [("max by (router) (morpheus_chain_up)", "{{router}}")]),
                Panel(
                    "Age of the newest block",
                    SECONDS,
                    [("min by (router) (morpheus_block_age_seconds)", "{{router}}")],
                ),
                Panel("Height", NUMBER, [("max by (router) (morpheus_block_height)", "{{router}}")]),
                Panel(
                    "Calls of routers",
                    SECONDS,
                    [(quantile(0.95, "morpheus_router_seconds", "router", "call"), "{{router}} {{call}} p95")],
                ),
                Panel(
                    "Calls that fail",
                    PER_SECOND,
                    [(rate("morpheus_router_errors_total", "router", "kind"), "{{router}} {{kind}}")],
                ),
            ],
        ),
        Row(
            "Automation and accounts",
            [
                Panel("Decisions", PER_SECOND, [(rate("morpheus_decisions_total", "decision"), "{{decision}}")]),
                Panel(
                    "Renewals",
                    NUMBER,
                    [("sum(increase(morpheus_renewals_failed_total[1h]))", "failed within an hour")],
                ),
                Panel(
                    "Age of the last look for renewals",
                    SECONDS,
                    [("min(morpheus_renewal_pass_age_seconds)", "age")],
                ),
                Panel("Deletions", NUMBER, [("max by (state) (morpheus_deletions)", "{{state}}")]),
                Panel("The oldest deletion", SECONDS, [("max(morpheus_deletion_oldest_seconds)", "age")]),
            ],
        ),
    ],
)

BUS = Dashboard(
    "morpheus-bus",
    "Morpheus: processes, bus and database",
    [
        Row(
            "Processes",
            [
                Panel("Up", NUMBER, [(f"sum by (job) (up{{{PROCESSES}}})", "{{job}}")]),
                Panel(
                    "What is missing",
                    NUMBER,
                    [("count by (job, part) (morpheus_ready == 0)", "{{job}} {{part}}")],
                    "Processes that miss a part. time: they were told to go.",
                ),
                Panel("Versions", NUMBER, [("count by (job, version) (morpheus_build_info)", "{{job}} {{version}}")]),
                Panel(
                    "CPU",
                    CORES,
                    [(f"rate(process_cpu_seconds_total{{{PROCESSES}}}[$__rate_interval])", "{{job}} {{instance}}")],
                ),
                Panel("Memory", BYTES, [(f"process_resident_memory_bytes{{{PROCESSES}}}", "{{job}} {{instance}}")]),
                Panel(
                    "Event loops are late by",
                    SECONDS,
                    [("max by (job, instance) (morpheus_event_loop_lag_seconds)", "{{job}} {{instance}}")],
                ),
                Panel("Open files", NUMBER, [(f"process_open_fds{{{PROCESSES}}}", "{{job}} {{instance}}")]),
                Panel(
                    "Log",
                    PER_SECOND,
                    [
                        (
                            rate("morpheus_log_records_total", "job", "level", of='level=~"warning|error|critical"'),
                            "{{job}} {{level}}",
                        )
                    ],
                ),
                Panel(
                    "Garbage collected",
                    PER_SECOND,
                    [
                        (
                            rate("python_gc_collections_total", "job", "generation", of=PROCESSES),
                            "{{job}} {{generation}}",
                        )
                    ],
                ),
            ],
        ),
        Row(
            "Bus",
            [
                Panel("Connected", NUMBER, [("min by (job) (morpheus_bus_connected)", "{{job}}")]),
                Panel("Reconnects", PER_SECOND, [(rate("morpheus_bus_reconnects_total", "job"), "{{job}}")]),
                Panel(
                    "Errors",
                    PER_SECOND,
                    [(rate("morpheus_bus_errors_total", "job"), "{{job}}")],
                    "What the client reported: refusals and lost servers.",
                ),
                Panel("Questions answered", PER_SECOND, [(rate("morpheus_rpc_server_total", "rpc"), "{{rpc}}")]),
                Panel(
                    "Questions not answered",
                    PER_SECOND,
                    [
                        (
                            rate(
                                "morpheus_rpc_client_total",
                                "rpc",
                                "code",
                                of='code=~"service_unavailable|service_timeout|internal_error"',
                            ),
                            "{{rpc}} {{code}}",
                        )
                    ],
                ),
                Panel(
                    "Questions: how long",
                    SECONDS,
                    [
                        (quantile(0.95, "morpheus_rpc_client_seconds", "job"), "asked by {{job}} p95"),
                        (quantile(0.95, "morpheus_rpc_server_seconds", "job"), "answered by {{job}} p95"),
                    ],
                ),
                Panel(
                    "Events read",
                    PER_SECOND,
                    [(rate("morpheus_events_read_total", "consumer", "outcome"), "{{consumer}} {{outcome}}")],
                ),
                Panel(
                    "Events that wait for a reader",
                    NUMBER,
                    [("max by (consumer) (morpheus_consumer_pending)", "{{consumer}}")],
                ),
                Panel(
                    "Dead letters",
                    NUMBER,
                    [("sum by (consumer) (increase(morpheus_dead_letters_total[1h]))", "{{consumer}}")],
                    "Within an hour.",
                ),
            ],
        ),
        Row(
            "Outbox",
            [
                Panel("Events to be published", NUMBER, [("max by (job) (morpheus_outbox_pending)", "{{job}}")]),
                Panel("The oldest of them", SECONDS, [("max by (job) (morpheus_outbox_oldest_seconds)", "{{job}}")]),
                Panel(
                    "Published",
                    PER_SECOND,
                    [
                        (rate("morpheus_outbox_published_total", "job"), "{{job}}"),
                        (rate("morpheus_outbox_failures_total", "job"), "{{job}} failed"),
                    ],
                ),
            ],
        ),
        Row(
            "Database",
            [
                Panel(
                    "Commands",
                    PER_SECOND,
                    [(rate("morpheus_database_seconds_count", "job", "command"), "{{job}} {{command}}")],
                ),
                Panel("How long", SECONDS, quantiles("morpheus_database_seconds", "job", legend="{{job}}")),
                Panel(
                    "Errors",
                    PER_SECOND,
                    [(rate("morpheus_database_errors_total", "job", "command"), "{{job}} {{command}}")],
                ),
                Panel("Key encryption", NUMBER, [("min by (instance) (morpheus_key_encryption_up)", "{{instance}}")]),
                Panel(
                    "Passwords that wait",
                    NUMBER,
                    [("max by (instance) (morpheus_password_hashes_waiting)", "{{instance}}")],
                ),
            ],
        ),
    ],
)

DASHBOARDS: Final = {"traffic": TRAFFIC, "sessions-and-stake": STAKE, "bus-and-database": BUS}
"""By the names of their files."""


def as_json(dashboard: Dashboard) -> str:
    """Return what Grafana reads."""
    shown = {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "tags": ["morpheus"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "utc",
        "templating": {
            "list": [{"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}]
        },
        "links": [{"type": "dashboards", "tags": ["morpheus"], "title": "Morpheus", "asDropdown": False}],
        "annotations": {"list": [_firing()]},
        "panels": list(_panels(dashboard.rows)),
    }
    return json.dumps(shown, indent=1, ensure_ascii=False) + "\n"


def _firing() -> dict[str, Any]:
    return {
        "name": "Alerts",
        "datasource": SOURCE,
        "enable": True,
        "expr": 'ALERTS{alertname=~"Morpheus.+", alertstate="firing", severity!="info"}',
        "titleFormat": "{{alertname}}",
        "iconColor": "red",
    }


def _panels(rows: Iterable[Row]) -> Iterable[dict[str, Any]]:
    y = number = 0
    for row in rows:
        number += 1
        place = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
        yield {"id": number, "type": "row", "title": row.title, "collapsed": False, "gridPos": place, "panels": []}
        y += 1
        for at, panel in enumerate(row.panels):
            number += 1
            line, column = divmod(at, COLUMNS // WIDTH)
            place = {"x": column * WIDTH, "y": y + line * HEIGHT, "w": WIDTH, "h": HEIGHT}
            yield _graph(number, panel, place)
        y += -(-len(row.panels) // (COLUMNS // WIDTH)) * HEIGHT


def _graph(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {"refId": chr(ord("A") + at), "datasource": SOURCE, "expr": expression, "legendFormat": legend}
            for at, (expression, legend) in enumerate(panel.queries)
        ],
    }


def write() -> None:
    """Write every dashboard anew."""
    for name, dashboard in DASHBOARDS.items():
        (FOLDER / f"{name}.json").write_text(as_json(dashboard))


if __name__ == "__main__":
    write()
