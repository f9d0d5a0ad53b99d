"""The long form of the state machine: thousands of examples, in several processes. Ends with 1 if one fails.

The same seed gives the same examples. A failure prints `@reproduce_failure(…, b'…')`: what stands in the quotes, given as
`--blob`, runs that one example alone.
"""

import argparse
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence

from hypothesis.errors import FlakyStrategyDefinition

from tests.state_machine.examining import examine
from tests.state_machine.house import house
from tests.state_machine.invariants import Violation

SEED_STEP = 1_000


def run(*, examples: int, rules: int, seed: int, shrink: bool, blob: str | None, verbose: bool) -> int:
    """Run the machine and tell how it went."""
    began = time.monotonic()
    with house() as stage:
        problem = examine(stage, examples=examples, rules=rules, seed=seed, shrink=shrink, blob=blob)
        while isinstance(problem, FlakyStrategyDefinition) and stage.violation is None and stage.examples < examples:
            # the beginning of an example, run anew, went another way: on a busy machine what is due by then differs
            seed += SEED_STEP
            sys.stdout.write(f"{stage.examples} examples: a repeat went another way; on with seed {seed}\n")
            left = examples - stage.examples
            problem = examine(stage, examples=left, rules=rules, seed=seed, shrink=shrink, blob=blob)
        problem = stage.violation or problem
        took = time.monotonic() - began
        told = f"seed {seed}: {stage.examples} examples, {stage.rules} rules, {stage.gates} gates in {took:.0f} s"
    if verbose:
        for name, number in sorted(stage.seen.items()):
            sys.stdout.write(f"{number:8}  {name}\n")
    if problem is None:
        sys.stdout.write(f"{told}: all invariants held\n")
        return 0
    traceback.print_exception(problem, limit=-6)
    kind = "an invariant was broken" if isinstance(problem, Violation) else "the run broke"
    sys.stdout.write(f"{told}: {kind}: {problem}\n")
    return 1


def in_processes(number: int, seed: int, examples: int, argv: Sequence[str]) -> int:
    """Run in several processes, and wait for all."""
    running = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.state_machine", *argv),
                *("--processes", "1", "--seed", str(seed + place), "--examples", str(examples)),
            ]
        )
        for place in range(number)
    ]
    return max(process.wait() for process in running)


def main(argv: Sequence[str]) -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.state_machine", description=__doc__)
    parser.add_argument("--examples", type=int, default=2_000, help="in all")
    parser.add_argument("--processes", type=int, default=1, help="each with a seed of its own, one after the other")
    parser.add_argument("--rules", type=int, default=30, help="rules of an example")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--blob", help="what a failure printed: run that example alone")
    parser.add_argument("--no-shrink", action="store_true", help="stop at the first failure as it was found")
    parser.add_argument("--verbose", action="store_true", help="tell how often each step, fault and event came")
    asked = parser.parse_args(argv)
    if asked.processes > 1:
        return in_processes(asked.processes, asked.seed, asked.examples // asked.processes, argv)
    return run(
        examples=asked.examples,
        rules=asked.rules,
        seed=asked.seed,
        shrink=not asked.no_shrink,
        blob=asked.blob,
        verbose=asked.verbose,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
