"""What one prompt used, whatever it came to."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from morpheus_common.bus.permissions import MAX_PAYLOAD_BYTES
from morpheus_common.contracts.chat import Endpoint
from morpheus_common.contracts.usage import MAX_RECORDS, TokensFrom, UsageRecord, UsageRecorded
from morpheus_common.ids import uuid7
from morpheus_sessions.usage import MOST_ESTIMATED, MOST_TOKENS, Tally, Tokens, count

from tests.unit.sessions.samples import owned_session, prompt_head

HEAD = prompt_head(model_id="0x" + "1" * 64, body_bytes=400)
SERVED = owned_session()


def figures(prompt: Any, completion: Any, total: Any = None, **more: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total, **more}


def counted(told: dict[str, Any], *, passed_on: int = 7, body_bytes: int = 400) -> Tokens:
    return count(told, passed_on=passed_on, body_bytes=body_bytes, endpoint=Endpoint.CHAT)


# who is believed


def test_the_model_is_believed_before_its_node_and_that_before_our_router() -> None:
    """B21."""
    told = {
        "usage": figures(1, 2, 3),
        "usage_from_provider": figures(4, 5, 9),
        "usage_from_consumer": figures(6, 7, 13),
    }
    assert counted(told) == Tokens(1, 2, 3, None, TokensFrom.PROVIDER)
    del told["usage"]
    assert counted(told) == Tokens(4, 5, 9, None, TokensFrom.PROVIDER)
    del told["usage_from_provider"]
    assert counted(told) == Tokens(6, 7, 13, None, TokensFrom.ROUTER)
    assert counted({}) == Tokens(100, 7, 107, None, TokensFrom.ESTIMATE)


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        [],
        "12",
        {},
        figures(-1, 2),
        figures(1, -2),
        figures(1.5, 2),
        figures(1, "2"),
        figures(True, 2),
        figures(0, 2),
        figures(1, 0),
        figures(1, None),
        figures(1, MOST_TOKENS + 1),
        figures(10**30, 2),
    ],
)
def test_figures_that_cannot_be_are_not_believed(wrong: Any) -> None:
    """C26, B21: missing, negative, no number, none where there was something, more than any model gives."""
    router = figures(6, 7, 13)
    both = {"usage": wrong, "usage_from_provider": wrong, "usage_from_consumer": router}
    assert counted(both) == Tokens(6, 7, 13, None, TokensFrom.ROUTER)
    assert counted({"usage": wrong}) == Tokens(100, 7, 107, None, TokensFrom.ESTIMATE)


def test_a_total_that_is_less_than_its_parts_is_their_sum_and_one_that_is_more_stays() -> None:
    """C26: some models think in tokens that they count in the total only."""
    assert [counted({"usage": figures(2, 3, total)}).total for total in (None, 4, -1, "9", 5, 9)] == [5, 5, 5, 5, 5, 9]


def test_cached_tokens_are_kept_if_they_can_be() -> None:
    """B21."""
    for cached, kept in ((3, 3), (0, 0), (11, None), (-1, None), ("3", None)):
        usage = figures(10, 2, 12, prompt_tokens_details={"cached_tokens": cached})
        assert counted({"usage": usage}).cached == kept
    assert counted({"usage": figures(10, 2, 12, prompt_tokens_details=None)}).cached is None


def test_an_estimate_is_bounded_and_never_nothing() -> None:
    """C26, B20."""
    assert counted({}, passed_on=10**9, body_bytes=10**9) == Tokens(
        MOST_ESTIMATED, MOST_ESTIMATED, 2 * MOST_ESTIMATED, None, TokensFrom.ESTIMATE
    )
    assert counted({}, passed_on=1, body_bytes=1) == Tokens(1, 1, 2, None, TokensFrom.ESTIMATE)


def test_embeddings_have_no_completion() -> None:
    told = {"usage": {"prompt_tokens": 5, "total_tokens": 5}}
    for said, source in ((told, TokensFrom.PROVIDER), ({}, TokensFrom.ESTIMATE)):
        tokens = count(said, passed_on=900, body_bytes=20, endpoint=Endpoint.EMBEDDINGS)
        assert tokens == Tokens(5, 0, 5, None, source)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(
    told=st.dictionaries(
        st.sampled_from(["usage", "usage_from_provider", "usage_from_consumer"]),
        json_values
        | st.fixed_dictionaries(
            {},
            optional=dict.fromkeys(
                ("prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details"), json_values
            ),
        ),
    ),
    passed_on=st.integers(1, 10**9),
    body_bytes=st.integers(1, 2**24),
)
def test_whatever_is_told_the_figures_are_whole_bounded_and_add_up(
    told: dict[str, Any], passed_on: int, body_bytes: int
) -> None:
    """C26, C42."""
    tokens = counted(told, passed_on=passed_on, body_bytes=body_bytes)
    for figure in (tokens.prompt, tokens.completion, tokens.total):
        assert type(figure) is int
        assert 1 <= figure <= 2 * MOST_TOKENS
    assert tokens.total >= tokens.prompt + tokens.completion
    assert tokens.source is not None


# what a prompt comes to


def ended(tally: Tally, *, gone: bool = False, answered: bool = False, turn_at: float = 11.0) -> UsageRecord | None:
    used = tally.end(13.0, turn_at=turn_at, is_gone=gone, has_answered=answered)
    return None if used is None else used.record


def taken_up(**changes: Any) -> Tally:
    tally = Tally(HEAD.model_copy(update=changes), started_at=10.0)
    tally.is_taken_up = True
    return tally


def test_an_answered_prompt_has_its_times_and_the_model_that_served_it() -> None:
    """F28: not the one that was asked for."""
    tally = taken_up()
    tally.ran_in(SERVED)
    tally.passed_on({}, 1, 11.5)
    tally.passed_on({"usage": figures(5, 6, 11)}, 2, 12.5)
    record = ended(tally, answered=True)
    assert record is not None
    assert (record.queue_ms, record.first_byte_ms, record.total_ms) == (1_000, 1_500, 3_000)
    assert (record.model_id, record.model, record.provider) == (SERVED.model_id, "served", "0xp")
    assert (record.session_id, record.chain_session) == ("s1", SERVED.chain_session)
    assert (record.prompt_tokens, record.completion_tokens, record.total_tokens) == (5, 6, 11)
    assert (record.outcome, record.tokens_from, record.request_id) == ("ok", TokensFrom.PROVIDER, "r1")


def test_of_two_sessions_the_second_has_the_prompt() -> None:
    tally = taken_up()
    tally.ran_in(SERVED)
    tally.ran_in(replace(SERVED, id="s2", model_name="n" * 1_000))
    record = ended(tally)
    assert record is not None
    assert (record.session_id, record.model) == ("s2", "n" * 128)


def test_a_prompt_that_found_no_session_waited_all_its_time_and_used_nothing() -> None:
    tally = taken_up()
    tally.failed("session_busy", not_sent=False)
    record = ended(tally, turn_at=10.0)
    assert record is not None
    assert (record.queue_ms, record.first_byte_ms, record.total_ms) == (3_000, None, 3_000)
    assert (record.model_id, record.model, record.session_id) == (HEAD.model_id, None, None)
    assert (record.outcome, record.total_tokens, record.tokens_from) == ("session_busy", 0, None)


def test_what_was_not_taken_up_or_goes_on_elsewhere_is_another_workers() -> None:
    assert ended(Tally(HEAD, started_at=10.0)) is None
    tally = taken_up()
    tally.failed("service_unavailable", not_sent=True)
    assert ended(tally) is None


def test_what_nobody_will_send_again_because_its_client_left_is_recorded() -> None:
    tally = taken_up()
    tally.failed("service_unavailable", not_sent=True)
    record = ended(tally, gone=True)
    assert record is not None
    assert record.outcome == "client_gone"


def test_a_prompt_is_recorded_once() -> None:
    """B22."""
    tally = taken_up()
    assert ended(tally) is not None
    assert ended(tally) is None


def test_what_failed_before_a_word_of_an_answer_used_nothing() -> None:
    tally = taken_up()
    tally.ran_in(SERVED)
    tally.failed("provider_rejected", not_sent=False)
    record = ended(tally)
    assert record is not None
    assert (record.outcome, record.total_tokens, record.tokens_from) == ("provider_rejected", 0, None)


@pytest.mark.parametrize("chunks", range(1, 20))
@pytest.mark.parametrize("failure", [None, "stream_truncated"])
def test_a_stream_that_ends_early_counts_the_chunks_that_went_out(chunks: int, failure: str | None) -> None:
    """C25, B20: neither nothing nor all of it."""
    tally = taken_up()
    tally.ran_in(SERVED)
    for number in range(1, chunks + 1):
        tally.passed_on({}, number, 11.0)
    if failure is not None:
        tally.failed(failure, not_sent=False)
    record = ended(tally, gone=failure is None, answered=True)
    assert record is not None
    assert (record.prompt_tokens, record.completion_tokens) == (100, chunks)
    assert (record.outcome, record.tokens_from) == (failure or "client_gone", TokensFrom.ESTIMATE)


def test_a_part_of_the_first_piece_of_a_stream_is_something() -> None:
    """B20."""
    tally = taken_up()
    record = ended(tally, gone=True, answered=True)
    assert record is not None
    assert record.completion_tokens == 1


@pytest.mark.parametrize("part_went_out", [False, True])
def test_a_json_answer_that_did_not_go_out_as_a_whole_counts_its_prompt_only(part_went_out: bool) -> None:
    """C25, B20: its client got nothing of it."""
    tally = taken_up(stream=False)
    tally.told = {"usage": figures(5, 6, 11)}
    record = ended(tally, gone=True, answered=part_went_out)
    assert record is not None
    assert (record.prompt_tokens, record.completion_tokens, record.total_tokens) == (5, 0, 5)
    assert record.tokens_from is TokensFrom.PROVIDER


def test_as_many_records_as_an_event_may_have_fit_into_a_message_whatever_a_model_is_called() -> None:
    tally = taken_up(user_id=uuid7(), key_id=uuid7(), request_id=uuid7())
    tally.ran_in(replace(SERVED, id=uuid7(), provider="0x" + "a" * 40, model_name="\U0001f600" * 1_000))
    tally.passed_on({"usage": figures(MOST_TOKENS, MOST_TOKENS, MOST_TOKENS)}, 9, 11.0)
    tally.failed("no_provider_available", not_sent=False)
    record = ended(tally, answered=True)
    assert record is not None
    event = UsageRecorded(records=[record] * MAX_RECORDS).model_dump_json()
    assert len(event.encode()) < 0.7 * MAX_PAYLOAD_BYTES
