"""The state machine in a bounded form, the same examples every time. `make state-machine` is the long form.

A failure prints its rules and `@reproduce_failure(…, b'…')`: what stands in the quotes runs that one example again, with
`python -m tests.state_machine --blob …`.
"""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.state_machine.house import House
from tests.state_machine.machine import STEPS, Machine

EXAMPLES = 40
RULES = 30


# a minute by itself; beside all other tests it gets little of the processor
@pytest.mark.timeout(400)
def test_no_interleaving_loses_doubles_or_forgets_a_stake(stage: House) -> None:
    class Bound(Machine):
        house = stage

    run_state_machine_as_test(
        Bound,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=RULES,
            derandomize=True,
            database=None,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert stage.rules >= EXAMPLES * 15
    # a machine that never gets anywhere finds nothing
    assert [step.value for step in STEPS.values() if not stage.seen[step.value]] == []
    assert [event for event in ("opened", "closed", "failed", "abandoned") if not stage.seen[f"event: {event}"]] == []
