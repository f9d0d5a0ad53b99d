"""What a list of measurements comes to."""

import math
import statistics
from collections.abc import Sequence
from itertools import pairwise


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` (0 to 1) of all are not above (nearest rank)."""
    if not values:
        raise ValueError("there is no percentile of nothing")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def median(values: Sequence[float]) -> float:
    """Return the middle of the rounds."""
    return statistics.median(values)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of the ratios of each round: what disturbed a round disturbed both sides of it.

    Raises:
        ValueError: the rounds do not match, or one of `theirs` is not above zero and so can be no measure.
    """
    if len(ours) != len(theirs) or not ours:
        raise ValueError(f"{len(ours)} rounds cannot be held beside {len(theirs)}")
    if min(theirs) <= 0:
        raise ValueError("a ratio to nothing")
    return median([one / other for one, other in zip(ours, theirs, strict=True)])


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Return the slope of the straight line through `(seconds, value)` points by least squares, in value a second."""
    if len(points) < 2:
        raise ValueError("two points make a line")
    times, values = [time for time, _ in points], [value for _, value in points]
    return statistics.linear_regression(times, values).slope


def gaps(arrivals: Sequence[tuple[float, int]]) -> list[float]:
    """Return the times between the events of a stream. What came together came with no gap but before the first of it."""
    moments = [moment for moment, count in arrivals for _ in range(count)]
    return [later - earlier for earlier, later in pairwise(moments)]
