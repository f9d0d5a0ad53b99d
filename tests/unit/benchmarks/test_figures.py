import pytest

from benchmarks.figures import gaps, median, percentile, ratio, slope


def test_a_percentile_is_the_value_that_so_many_are_not_above() -> None:
    hundred = list(map(float, range(100, 0, -1)))
    assert percentile(hundred, 0.5) == 50
    assert percentile(hundred, 0.99) == 99
    assert percentile(hundred, 1.0) == 100
    assert percentile([7.0], 0.0) == 7
    assert percentile([1.0, 2.0, 3.0], 0.5) == 2
    assert percentile([1.0, 2.0, 3.0], 0.67) == 3


def test_there_is_no_percentile_of_nothing() -> None:
    with pytest.raises(ValueError, match="nothing"):
        percentile([], 0.5)


def test_a_ratio_is_taken_in_each_round_and_not_of_the_medians() -> None:
    # a machine that was five times as slow in the second round was so for both
    assert ratio([2.0, 50.0, 3.0], [1.0, 5.0, 1.0]) == 3.0
    assert median([2.0, 50.0, 3.0]) / median([1.0, 5.0, 1.0]) == 3.0
    assert ratio([10.0, 10.0], [5.0, 1.0]) == 6.0


@pytest.mark.parametrize(
    ("ours", "theirs"), [([1.0], [1.0, 2.0]), ([], []), ([1.0], [0.0]), ([1.0] * 4, [-0.1, 0.0, 1.0, 1.0])]
)
def test_rounds_that_do_not_match_or_measure_nothing_make_no_ratio(ours: list[float], theirs: list[float]) -> None:
    with pytest.raises(ValueError, match="rounds"):
        ratio(ours, theirs)


def test_a_round_that_measures_nothing_is_left_out_while_most_do_measure() -> None:
    assert ratio([8.0, 9.0, 2.0], [1.0, -0.5, 1.0]) == 5.0


def test_a_slope_is_that_of_the_line_through_the_points() -> None:
    assert slope([(0.0, 5.0), (10.0, 25.0), (20.0, 45.0)]) == pytest.approx(2.0)
    assert slope([(0.0, 1.0), (1.0, 3.0), (2.0, 1.0), (3.0, 3.0), (4.0, 1.0)]) == pytest.approx(0.0)
    with pytest.raises(ValueError, match="line"):
        slope([(0.0, 1.0)])


def test_events_that_came_together_have_no_gap_but_before_the_first_of_them() -> None:
    assert gaps([(1.0, 1), (1.5, 0), (2.0, 3), (5.0, 1)]) == [1.0, 0.0, 0.0, 3.0]
    assert gaps([(1.0, 1)]) == []
