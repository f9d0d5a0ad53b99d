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

    A round in which theirs is not above zero was disturbed while the router alone was asked, and measures nothing.

    Raises:
        ValueError: the rounds do not match, or no more than half of them measure anything.
    """
    if len(ours) != len(theirs) or not ours:
        raise ValueError(f"{len(ours)} rounds cannot be held beside {len(theirs)}")
    ratios = [one / other for one, other in zip(ours, theirs, strict=True) if other > 0]
    if len(ratios) <= len(ours) / 2:
        raise ValueError(f"only {len(ratios)} of {len(ours)} rounds measure anything")
    return median(ratios)


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
