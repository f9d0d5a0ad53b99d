"""What is made of scrapes, and how a stage is judged by what fires."""

import httpx2
import pytest

from tests.monitoring.scraping import Scraper, Target
from tests.monitoring.staged import DATABASE, ROUTER, STAGES, TELLING, Stage, wrong_with

TARGETS = [Target("morpheus-auth", "auth-1", 1), Target("morpheus-sessions", "sessions-1", 2)]


def of(name: str) -> Stage:
    return next(stage for stage in STAGES if stage.name == name)


async def scraped(*answers: str | None) -> dict[str, str]:
    """What is kept of auth's answers, one a scrape; None: it does not answer. Sessions says the same always."""
    scrapes = iter(answers)
    said: str | None = None

    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.port == 2:
            return httpx2.Response(200, text="steady 1.0\n")
        if said is None:
            raise httpx2.ConnectError("nobody")
        return httpx2.Response(200, text=said)

    scraper = Scraper(TARGETS, {"wanted", "steady"})
    async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer)) as http:
        for said in scrapes:  # noqa: B007 - the transport looks at it
            await scraper.scrape(http)
    return {series.name: series.values for series in scraper.series()}


async def test_a_scrape_is_kept_with_what_prometheus_adds_and_what_is_gone_is_marked() -> None:
    found = await scraped('wanted{a="b"} 1.0\nother 5.0\n', None, None, 'wanted{a="b"} 3.0\n')
    assert found == {
        'up{instance="auth-1", job="morpheus-auth"}': "1 0 0 1",
        'wanted{a="b", instance="auth-1", job="morpheus-auth"}': "1.0 stale _ 3.0",
        'up{instance="sessions-1", job="morpheus-sessions"}': "1 1 1 1",
        'steady{instance="sessions-1", job="morpheus-sessions"}': "1.0 1.0 1.0 1.0",
    }


def test_each_stage_is_told_by_other_alerts() -> None:
    told_by = {stage.told_by for stage in STAGES}
    # a router that hangs is a router that is away
    assert len(told_by) == len(STAGES) - 1
    assert frozenset.union(*told_by) == TELLING


def test_a_stage_that_is_told_by_its_own_alerts_passes_whatever_follows_from_it() -> None:
    assert wrong_with(of("router down"), {*ROUTER, "MorpheusServerErrors"}) == []
    assert wrong_with(of("nothing"), {"MorpheusOverheadHigh"}) == []


@pytest.mark.parametrize(
    ("stage", "fired"),
    [
        ("router down", set()),
        ("router down", ROUTER - {"MorpheusRouterDown"}),
        ("router down", ROUTER | DATABASE),
        ("nothing", {"MorpheusServerErrors"}),
        ("nothing", DATABASE),
        ("clients at fault", {"MorpheusClientsRefused", "MorpheusClientsLeave", "MorpheusServerErrors"}),
    ],
)
def test_a_stage_that_is_told_wrongly_does_not_pass(stage: str, fired: set[str]) -> None:
    assert wrong_with(of(stage), set(fired)) != []
