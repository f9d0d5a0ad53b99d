"""Running the machine, for the long form, for one example anew, and against mutants."""

from hypothesis import HealthCheck, Phase, reproduce_failure, settings
from hypothesis import __version__ as hypothesis_version
from hypothesis.stateful import get_state_machine_test

from tests.state_machine.house import House
from tests.state_machine.machine import Machine


def examine(
    stage: House, *, examples: int, rules: int, seed: int, shrink: bool = False, blob: str | None = None
) -> Exception | None:
    """Run so many examples, the same for the same seed; return what ended the run early, None if nothing did.

    `blob`: what a failure printed; that example alone is run.
    """

    class Bound(Machine):
        house = stage
        _hypothesis_internal_use_seed = seed

    phases = [Phase.generate, Phase.shrink] if shrink else [Phase.generate]
    test = get_state_machine_test(
        Bound,
        settings=settings(
            max_examples=examples,
            stateful_step_count=rules,
            database=None,
            deadline=None,
            phases=phases if blob is None else [Phase.explicit],
            print_blob=True,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
    if blob is not None:
        test = reproduce_failure(hypothesis_version, blob.encode())(test)
    try:
        test()
    except Exception as error:  # noqa: BLE001 - whatever ends a run is what the caller asks for
        return error
    return None
