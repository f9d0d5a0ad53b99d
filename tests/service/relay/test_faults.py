"""Every fault of the simulator that concerns prompts, at every chunk, in every mode: what the client gets, to the byte, and
what becomes of the session.

`tests/golden/relay` holds the answers. Every run of the tests has a sample; `make relay-faults` has all (`--every-chunk`), and
`make relay-faults GOLDEN=--update-golden` writes the answers anew.
"""

import asyncio
from contextlib import nullcontext

import httpx2
import pytest

from tests.golden.files import Golden
from tests.service.relay.cases import FAULTS, MODES, Case, Fault
from tests.service.relay.house import WORDS, Key, RelayHouse, events, shown

SILENCE = 1.0
"""Seconds after which a worker loses its patience with those that say nothing at all."""


@pytest.fixture
def every_chunk(request: pytest.FixtureRequest, golden: Golden) -> bool:
    return golden.update or bool(request.config.getoption("--every-chunk"))


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
async def test_a_fault_is_a_typed_error_or_does_no_harm_and_leaves_the_session_right(
    house: RelayHouse, fault: Fault, golden: Golden, every_chunk: bool
) -> None:
    """F19, F20, F21, F22, B1, B2, B3, B5, C34, C42"""
    cases = [case for case in fault.cases() if every_chunk or case.is_sample]
    keys = [await house.warm_key() for _ in cases]
    with house.patience(SILENCE) if fault.is_silence else nullcontext():
        answers = await asyncio.gather(*(strike(house, case, key) for case, key in zip(cases, keys, strict=True)))
    await house.at_rest()
    after = await asyncio.gather(*(what_is_left(house, key) for key in keys))
    assert (await house.simulator.state())["max_unfinished_prompts_of_a_session"] == 1
    titles = [case.title for case in cases]
    golden.compare(fault.name, {title: "\n".join(told) for title, *told in zip(titles, answers, after, strict=True)})


def test_every_case_has_its_golden_outcome_and_there_are_no_others(golden: Golden) -> None:
    assert golden.titles() == {fault.name: {case.title for case in fault.cases()} for fault in FAULTS}


async def strike(house: RelayHouse, case: Case, key: Key) -> str:
    """Send a prompt that is struck; return what came of it, to be shown."""
    params = {**case.fault.params, "match": key.session, **({} if case.at is None else {"at": case.at})}
    await house.simulator.arm("chat", case.fault.action, **params)
    answer = await house.prompt(key, **MODES[case.mode])
    check_truth(answer, streamed=bool(MODES[case.mode]["stream"]))
    return shown(answer)


async def what_is_left(house: RelayHouse, key: Key) -> str:
    """Look at the session, and send the next prompt."""
    before = await house.document(key.session)
    answer = await house.prompt(key, stream=False)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"] == "".join(WORDS)
    kept = answer.headers["x-morpheus-session"] == key.session
    if kept:
        house.idle.append(key)
    return f"{_state(before)}; the next prompt is answered in {'it' if kept else 'another'}"


def _state(session: dict[str, object]) -> str:
    rests = session["quarantined_until"] is not None
    why = f" ({session['reason']})" if session["reason"] else ""
    return f"its session: {session['state']}{why}{', rests' if rests else ''}"


def check_truth(answer: httpx2.Response, *, streamed: bool) -> None:
    """Whatever the fault was: who is told of an end got all there was, and who did not is told of an error."""
    if answer.status_code != 200:
        assert answer.json()["error"]["code"]
        assert "stop" not in answer.text
        return
    if not streamed:
        assert answer.json()["choices"][0]["message"]["content"] == "".join(WORDS)
        return
    assert answer.content.endswith(b"data: [DONE]\n\n")
    assert answer.content.count(b"[DONE]") == 1
    told = events(answer.content)
    said = "".join(choice["delta"].get("content", "") for event in told for choice in event.get("choices", []))
    failed = [event for event in told if "error" in event]
    if failed:
        assert told[-1:] == failed
        assert failed[0]["error"]["code"]
    else:
        assert said == "".join(WORDS)
        assert [c["finish_reason"] for event in told for c in event["choices"] if c["finish_reason"]] == ["stop"]
