"""What automation measures: what it decided, and whether it still looks at sessions near their end."""

import time
from typing import Final

from morpheus_common.contracts.automation import Decision
from morpheus_common.metrics import REGISTRY, at_most
from prometheus_client import Counter, Gauge

_DECISIONS = at_most(
    Counter(
        "morpheus_decisions_total",
        "Decisions of this worker about sessions of keys, repeated ones included",
        ["decision"],
        registry=REGISTRY,
    ),
    len(Decision),
)
DECISIONS: Final = {decision: _DECISIONS.labels(decision.value) for decision in Decision}
RENEWALS_FAILED = Counter(
    "morpheus_renewals_failed_total", "Successors of sessions that could not be opened", registry=REGISTRY
)
_PASS_AGE = Gauge(
    "morpheus_renewal_pass_age_seconds",
    "Time since this worker last looked at all sessions near their end, or since it started; one of all workers looks at a "
    "time, so that the least counts",
    registry=REGISTRY,
)


class PassAge:
    """How long ago the last pass was made."""

    def __init__(self) -> None:
        self._made_at = time.monotonic()
        _PASS_AGE.set_function(lambda: time.monotonic() - self._made_at)

    def made(self) -> None:
        """A pass has come to its end."""
        self._made_at = time.monotonic()
