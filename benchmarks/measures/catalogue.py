"""`GET /models` beside a constant route of the same app: its rate, and that nobody else is asked."""

from collections import defaultdict

from benchmarks.bus import listening
from benchmarks.client import Connection, request
from benchmarks.figures import median, ratio
from benchmarks.findings import Finding, Outcome, judged
from benchmarks.lab import Lab
from benchmarks.load import at_once
from benchmarks.processes import cpu_seconds

CALLERS = 16
ROUTES = {"models": "/api/v1/models", "constant": "/live"}
LEAST = 0.8
ASKED = 500
WATCH_SECONDS = 2.0


async def measure(lab: Lab) -> Outcome:
    """Rates at c=16, and messages on the bus for each request."""
    url, gateway = lab.ours.gateway_url, lab.ours.pids()["gateway"]
    rates, per_cpu = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    for number in range(lab.form.rounds):
        for name in sorted(ROUTES, reverse=bool(number % 2)):
            requests = [request(url, ROUTES[name], {})] * CALLERS
            before = cpu_seconds([gateway])
            burst = await at_once(url, requests, lab.form.burst / 2)
            rates[name].append(burst.requests / burst.seconds)
            per_cpu[name].append(burst.requests / max(0.01, cpu_seconds([gateway]) - before))
            lab.say(f"round {number + 1}: {ROUTES[name]} {rates[name][-1]:,.0f} a second")
    share = ratio(rates["models"], rates["constant"])
    asked, unlike = await _messages(lab, url)
    findings = [
        Finding(
            "models_rate",
            "GET /models, rate at c=16 beside GET /live",
            f"≥ {LEAST:.0%}",
            f"{share:.0%} ({median(rates['models']):,.0f} beside {median(rates['constant']):,.0f} a second)",
            judged(share >= LEAST),
        ),
        Finding(
            "models_bus",
            f"messages on the bus for {asked} GET /models",
            "0",
            str(sum(unlike.values())),
            judged(not unlike),
            f"subjects: {', '.join(unlike)}" if unlike else "",
        ),
    ]
    return Outcome(findings, {"per_second": dict(rates), "per_gateway_cpu_second": dict(per_cpu), "messages": unlike})


async def _messages(lab: Lab, url: str) -> tuple[int, dict[str, int]]:
    """Return what the bus carried while models were asked for, beyond what it carries when nobody asks anything."""
    connection = Connection(url)
    async with listening(lab.ours.nats_url) as bus:
        idle = await bus.heard_in(WATCH_SECONDS)
        bus.forget()
        for _ in range(ASKED):
            await connection.ask(request(url, ROUTES["models"], {}))
        busy = await bus.heard()
    connection.hang_up()
    # what services say every second or so is there with and without: a request's message would come with each of them
    return ASKED, {name: count for name, count in busy.items() if count - idle.get(name, 0) > ASKED / 100}
