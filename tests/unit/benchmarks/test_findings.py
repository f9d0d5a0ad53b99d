from benchmarks.findings import Verdict, at_least, at_most


def test_ours_is_held_beside_a_peer_by_the_ratio_of_each_round() -> None:
    found = at_most("x", "latency", {"ours": [3.0, 30.0, 2.9], "floor": [2.0, 20.0, 2.0]}, "floor", 1.5)
    assert found.verdict is Verdict.MET
    assert found.bar == "≤ 1.5 × the floor's"
    assert found.value == "1.50 × (3 beside 2)"
    assert at_most("x", "y", {"ours": [3.1], "floor": [2.0]}, "floor", 1.5).verdict is Verdict.MISSED


def test_less_than_a_tenth_and_more_than_ten_times_are_said_as_people_say_them() -> None:
    rounds = {"ours": [5.0], "litellm": [50.0], "portkey": [4.0]}
    tenth = at_most("x", "latency", rounds, "litellm", 0.1)
    assert (tenth.bar, tenth.verdict) == ("≤ 1/10 of LiteLLM's", Verdict.MET)
    times = at_least("x", "requests", {"ours": [500.0], "litellm": [51.0]}, "litellm", 10)
    assert (times.bar, times.verdict) == ("≥ 10 × LiteLLM's", Verdict.MISSED)
    assert at_least("x", "requests", rounds, "portkey", 1).bar == "≥ Portkey's"


def test_a_peer_that_is_not_there_is_not_beaten() -> None:
    found = at_least("x", "requests", {"ours": [500.0]}, "portkey", 1)
    assert (found.verdict, found.value) == (Verdict.NOT_JUDGED, "–")
    assert found.note == "Portkey is not there"


def test_a_peer_that_adds_nothing_is_no_measure() -> None:
    found = at_most("x", "latency", {"ours": [1.0, 1.0], "floor": [0.1, -0.1]}, "floor", 1.5)
    assert found.verdict is Verdict.NOT_JUDGED
