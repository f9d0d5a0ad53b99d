"""Prompts: one at a time in a session, each answered once, and never an end that is none."""

import asyncio
import json
from contextlib import AsyncExitStack

import pytest
from morpheus_common.bus import names
from morpheus_common.bus.frames import WINDOW_BYTES, Kind
from morpheus_common.contracts.automation import Decision
from morpheus_sessions import ownership
from morpheus_sessions.chat import Line
from morpheus_sessions.ownership import OwnedSession
from morpheus_sessions.prompts import Prompt

from tests.service.sessions.house import House, tap, until

# first chats


async def test_twenty_parallel_first_chats_open_one_session_and_each_gets_its_own_answer(house: House) -> None:
    """F1, F2"""
    prompts = [f"canary-{number:02}" for number in range(20)]
    async with house.worker():
        answers = await asyncio.gather(
            *(house.gateway.chat(text, stream=number % 2 == 0) for number, text in enumerate(prompts))
        )

        state = await house.simulator.state()
    for text, answer in zip(prompts, answers, strict=True):
        answer.assert_whole()
        assert f"You asked: {text}." in answer.text
        assert not any(other in answer.text for other in prompts if other != text)
        assert answer.head is not None
        assert answer.head.session_id == state["sessions"][0]["Id"]
    assert state["opens_total"] == 1
    assert state["max_unfinished_prompts_of_a_session"] == 1
    assert len(house.automation.asked) == 1


async def test_five_who_share_a_key_each_get_their_own_answers(house: House) -> None:
    """F1"""

    async def talk(user: str) -> None:
        for number in range(5):
            text = f"canary-{user}-{number}"
            answer = await house.gateway.chat(text, stream=number % 2 == 0)
            answer.assert_whole()
            assert f"You asked: {text}." in answer.text
            assert answer.text.count("canary-") == 1

    async with house.worker():
        await asyncio.gather(*(talk(user) for user in "abcde"))
        state = await house.simulator.state()
    assert state["opens_total"] == 1
    assert state["max_unfinished_prompts_of_a_session"] == 1


async def test_keys_have_sessions_of_their_own(house: House) -> None:
    """F4"""
    async with house.worker():
        one, other = await asyncio.gather(house.gateway.chat(key="k1"), house.gateway.chat(key="k2"))

    assert one.head is not None
    assert other.head is not None
    assert one.head.session_id != other.head.session_id
    assert (await house.simulator.state())["open_count"] == 2


async def test_both_modes_say_the_same(house: House) -> None:
    async with house.worker():
        streamed = await house.gateway.chat("hello", stream=True)
        whole = await house.gateway.chat("hello", stream=False)

    assert streamed.text == whole.text
    assert streamed.body.endswith(b"data: [DONE]\n\n")
    assert b"usage_from_" not in streamed.body + whole.body
    assert json.loads(whole.body)["usage"]["total_tokens"] > 0


async def test_without_automation_a_key_without_a_session_is_told_to_open_one(house: House) -> None:
    house.automation.decision = Decision.REFUSE
    async with house.worker():
        answer = await house.gateway.chat()
        assert answer.code == "no_active_session"

        await house.gateway.open()
        assert (await house.gateway.chat()).ended
    assert (await house.simulator.state())["opens_total"] == 1


async def test_a_plan_that_refuses_for_a_bound_is_told_by_its_code_with_what_it_says(house: House) -> None:
    """C31"""
    house.automation.decision = Decision.REFUSE
    details = {"limit": "10", "at_risk": "4", "required_stake": "7", "frees_at": None}
    async with house.worker():
        for code, retry_after in (
            ("stake_limit_reached", None),
            ("insufficient_balance", None),
            ("stake_capacity", 60),
        ):
            house.automation.refusal = {"code": code, "details": details, "retry_after": retry_after}
            answer = await house.gateway.chat()
            assert answer.error is not None
            assert (answer.code, answer.error.details, answer.error.retry_after) == (code, details, retry_after)
    assert (await house.simulator.state())["opens_total"] == 0


async def test_automation_is_told_what_the_key_has_when_it_is_asked(house: House) -> None:
    """F3"""
    async with house.worker():
        qwen = house.gateway.model("qwen3-235b")
        first = await house.gateway.chat()
        other = await house.gateway.chat(model_id=qwen)
        await house.gateway.chat()
    assert first.head is not None
    assert other.head is not None
    sessions = (first.head.session_id, other.head.session_id)
    told = [(asked.key_prefix, asked.current, asked.parked, asked.rests) for asked in house.automation.asked]
    assert told == [
        ("sk-abc", None, None, False),
        ("sk-abc", sessions[0], None, False),
        ("sk-abc", sessions[1], sessions[0], False),
    ]


async def test_a_chat_that_could_not_open_a_session_does_not_spoil_the_session_opened_after_it(house: House) -> None:
    await house.simulator.arm("open", "error_before", status=403, text="method not allowed")
    async with house.worker():
        assert (await house.gateway.chat()).code == "open_failed"

        await house.gateway.open()
        assert (await house.gateway.chat()).code is None


async def test_prompts_that_wait_for_one_failing_open_all_fail_with_it_and_try_it_once(house: House) -> None:
    await house.simulator.arm("open", "error_before", status=403, text="method not allowed", count=None)
    async with house.worker():
        answers = await asyncio.gather(*(house.gateway.chat() for _ in range(10)))

    assert {answer.code for answer in answers} == {"open_failed"}
    assert len(await house.operations()) == 1


# models


async def test_another_model_parks_the_session_and_going_back_takes_it_without_a_chain_call(house: House) -> None:
    """F3"""
    qwen = "qwen3-235b"
    async with house.worker():
        first = await house.gateway.chat()
        other = await house.gateway.chat(model_id=house.gateway.model(qwen))
        assert first.head is not None
        assert other.head is not None
        parked = await house.only_session(state="parked")
        assert (parked["chain_session"], parked["slot"]) == (first.head.session_id, None)

        back = await house.gateway.chat()
        assert back.head is not None
        again = await house.gateway.chat(model_id=house.gateway.model(qwen))
        assert again.head is not None
    assert (first.head.model, other.head.model) == ("llama-3.3-70b", qwen)
    assert (back.head.session_id, again.head.session_id) == (first.head.session_id, other.head.session_id)
    state = await house.simulator.state()
    assert state["opens_total"] == state["open_count"] == 2


async def test_a_session_that_is_taken_back_at_once_does_not_rest_for_a_prompt_whose_end_was_seen(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F3: or each change of models would cost another stake."""
    # marks are written late: what was written last of the first session is that it is busy
    async with house.worker():
        first, other = (house.gateway.model(name) for name in ("llama-3.3-70b", "qwen3-235b"))
        for model in (first, other, first):
            assert (await house.gateway.chat(model_id=model)).ended

        async def is_written() -> bool:
            return bool(await house.sessions(busy={"$ne": None}))

        await house.simulator.arm("chat", "hang")
        running = asyncio.create_task(house.gateway.chat(model_id=first))
        await until(is_written)
        monkeypatch.setattr(ownership, "MARK_SECONDS", 3_600.0)
        await house.simulator.disarm()
        assert (await running).ended
        for model in (other, first, other):
            assert (await house.gateway.chat(model_id=model)).ended
    assert (await house.simulator.state())["opens_total"] == 2


async def test_prompts_for_two_models_in_quick_turn_are_each_answered_by_their_own(house: House) -> None:
    """F1, F3"""
    models = ["llama-3.3-70b", "qwen3-235b"]
    async with house.worker():
        for name in models:
            assert (await house.gateway.chat(model_id=house.gateway.model(name))).ended
        texts = [f"canary-{number:02}" for number in range(20)]
        in_turn = [
            await house.gateway.chat(text, stream=number % 3 == 0, model_id=house.gateway.model(models[number % 2]))
            for number, text in enumerate(texts)
        ]
        at_once = await asyncio.gather(
            *(
                house.gateway.chat(text, stream=number % 3 == 0, model_id=house.gateway.model(models[number % 2]))
                for number, text in enumerate(texts)
            )
        )
        state = await house.simulator.state()
    for number, text in enumerate(texts):
        for answer in (in_turn[number], at_once[number]):
            answer.assert_whole()
            assert f"You asked: {text}." in answer.text
            assert answer.head is not None
            assert answer.head.model == models[number % 2]
    assert len({answer.head.session_id for answer in (*in_turn, *at_once) if answer.head is not None}) == 2
    assert state["opens_total"] == 2
    assert state["max_unfinished_prompts_of_a_session"] == 1


async def test_a_prompt_can_insist_on_a_parked_session_and_on_no_other_keys(house: House) -> None:
    """F5"""
    async with house.worker():
        first = await house.gateway.chat()
        await house.gateway.chat(model_id=house.gateway.model("qwen3-235b"))
        strangers = await house.gateway.chat(key="k2")
        assert first.head is not None
        assert strangers.head is not None

        insisted = await house.gateway.chat(session_id=first.head.session_id, model_id=None)
        refused = await house.gateway.chat(session_id=strangers.head.session_id, model_id=None)
    assert insisted.head is not None
    assert insisted.head.session_id == first.head.session_id
    assert refused.code == "session_not_found"


# failures


async def test_a_session_that_was_opened_a_moment_ago_can_be_insisted_on_at_once(house: House) -> None:
    """F7: the worker may still take the one before it for the key's session."""
    async with house.worker():
        for model in ("llama-3.3-70b", "qwen3-235b") * 3:
            row = await house.gateway.open(model_id=house.gateway.model(model))
            (await house.gateway.chat(model_id=None, session_id=row.session_id)).assert_whole()


async def test_a_stream_that_breaks_off_is_an_error_and_never_an_end(house: House) -> None:
    async with house.worker():
        await house.gateway.open()
        await house.simulator.arm("chat", "truncate", at=3)
        truncated = await house.gateway.chat()
        await house.simulator.arm("chat", "cut", at=3)
        cut = await house.gateway.chat()

    for answer in (truncated, cut):
        assert answer.code == "stream_truncated"
        assert not answer.ended
        assert answer.body
        assert b"[DONE]" not in answer.body


async def test_a_stream_without_done_is_complete_when_it_has_a_finish_reason(house: House) -> None:
    async with house.worker():
        await house.gateway.open()
        await house.simulator.arm("chat", "no_done")
        answer = await house.gateway.chat()

    answer.assert_whole()
    assert answer.body.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("at", [0, 3])
async def test_the_routers_raw_error_fails_a_stream_before_and_after_its_first_chunk(house: House, at: int) -> None:
    async with house.worker():
        await house.gateway.open()
        await house.simulator.arm("chat", "raw_error", at=at, text="provider request failed: invalid response: EOF")
        answer = await house.gateway.chat()

    assert answer.code == "provider_error"
    assert not answer.ended
    assert bool(answer.body) == (at > 0)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("status", "code"), [(400, "provider_rejected"), (429, "provider_overloaded"), (401, "provider_error")]
)
async def test_a_models_error_is_told_by_what_its_status_means(
    house: House, status: int, code: str, stream: bool
) -> None:
    """F11"""
    body = {"error": {"message": "see http://10.0.0.7/ for help", "code": "too_long", "param": "messages"}}
    async with house.worker():
        await house.gateway.open()
        await house.simulator.arm("chat", "model_error", status=status, pass_status=True, body=body)
        answer = await house.gateway.chat(stream=stream)
        assert (await house.gateway.chat(stream=stream)).ended

    assert answer.code == code
    assert answer.error is not None
    assert "10.0.0.7" not in answer.error.message
    if code == "provider_rejected":
        assert (answer.error.upstream_code, answer.error.param) == ("too_long", "messages")


async def test_a_session_the_provider_does_not_know_any_more_is_replaced_once_and_the_prompt_answered(
    house: House,
) -> None:
    async with house.worker():
        row = await house.gateway.open()
        await house.simulator.wipe()
        answer = await house.gateway.chat()

    answer.assert_whole()
    assert answer.head is not None
    assert answer.head.session_id != row.session_id
    assert (await house.simulator.state())["opens_total"] == 2


async def test_a_session_that_seems_lost_in_the_middle_of_an_answer_is_not_asked_twice(house: House) -> None:
    async with house.worker():
        await house.gateway.open()
        await house.simulator.arm(
            "chat", "raw_error", at=2, text="provider request failed: provider error: session expired"
        )
        answer = await house.gateway.chat()

    assert answer.code == "session_lost"
    assert await house.simulator.prompts() == 1


async def test_a_router_that_is_not_there_got_nothing(house: House) -> None:
    async with tap(house.simulator.url) as router, house.worker(router_url=f"http://{router.address}"):
        await house.gateway.open()
        await router.vanish()
        answer = await house.gateway.chat()

    assert answer.code == "service_unavailable"
    assert answer.error is not None
    assert answer.error.not_sent


# silence: what may still run at the router


@pytest.mark.parametrize("stream", [False, True])
async def test_after_a_time_out_no_prompt_is_stacked_behind_the_one_that_may_still_run(
    house: House, stream: bool
) -> None:
    house.automation.decision = Decision.REFUSE
    async with house.worker(first_byte_timeout=0.5, answer_timeout=0.5):
        await house.gateway.open()
        await house.simulator.arm("chat", "stall")
        first = await house.gateway.chat(stream=stream)
        second = await house.gateway.chat(stream=stream)

        prompts = await house.simulator.prompts()

        async def rests() -> bool:
            return (await house.only_session())["quarantined_until"] is not None

        await until(rests)
    assert first.code == "provider_timeout"
    assert second.code == "session_busy"
    assert prompts == 1


async def test_with_automation_a_resting_session_is_replaced_by_another(house: House) -> None:
    async with house.worker(first_byte_timeout=0.5, answer_timeout=0.5):
        row = await house.gateway.open()
        await house.simulator.arm("chat", "stall")
        await house.gateway.chat()
        answer = await house.gateway.chat()

        answer.assert_whole()
        assert answer.head is not None
        assert answer.head.session_id != row.session_id
        assert (await house.simulator.state())["max_unfinished_prompts_of_a_session"] == 1


async def test_silence_between_two_chunks_is_a_time_out(house: House) -> None:
    async with house.worker(chunk_timeout=0.5):
        await house.gateway.open()
        await house.simulator.arm("chat", "stall", at=2)
        answer = await house.gateway.chat()

    assert answer.code == "provider_timeout"
    assert not answer.ended


async def test_a_prompt_that_a_provider_may_have_run_is_never_said_not_to_have_been_sent(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway would send it again, and the first provider could run it twice."""
    async with house.worker() as parts:
        await house.gateway.open()
        text = "provider request failed: received invalid signature from provider"
        await house.simulator.arm("chat", "raw_error", text=text)
        heartbeat = parts.chat._heartbeat
        opened = parts.chat._open_for

        async def open_and_be_taken_for_dead(
            prompt: Prompt, owned: OwnedSession | None, line: Line, avoided: str
        ) -> None:
            await opened(prompt, owned, line, avoided)
            heartbeat.fenced = True

        monkeypatch.setattr(parts.chat, "_open_for", open_and_be_taken_for_dead)
        answer = await house.gateway.chat()

    assert answer.error is not None
    assert (answer.code, answer.error.not_sent) == ("provider_error", False)


# leaving


async def test_a_prompt_that_waits_in_line_leaves_it_when_its_client_goes(house: House) -> None:
    async with house.worker():
        await house.gateway.open()
        await house.simulator.arm("chat", "hang")
        async with AsyncExitStack() as stack:
            running, waiting = [
                await stack.enter_async_context(house.gateway.prompting(text)) for text in ("first", "second")
            ]
            for prompting in (running, waiting):
                await prompting.accepted()
                await prompting.credit()
            await until(lambda: house.simulator.struck("chat"))
            await waiting.cancel()
            await house.simulator.disarm()
            (await running.finish()).assert_whole()
        assert (await house.gateway.chat("third")).ended

    assert await house.simulator.prompts() == 2


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_that_comes_with_its_credit_is_run_at_once(house: House, stream: bool) -> None:
    """No accept, no credit by itself, no end by itself: what is there of an answer is all that travels."""
    async with house.worker():
        await house.gateway.open()
        with_credit = house.gateway.prompting(stream=stream, credit=WINDOW_BYTES, takes_last=True)
        async with with_credit as prompting:
            while not prompting.answer.ended:
                await prompting.next()
        prompting.answer.assert_whole()

    kinds = [frame.kind for frame in prompting.answer.frames if frame.kind is not Kind.BEAT]
    assert set(kinds[:-1]) <= {Kind.DATA}
    assert kinds[-1] is Kind.LAST
    assert await house.simulator.prompts() == 1


async def test_a_client_that_leaves_a_stream_frees_the_session(house: House) -> None:
    async with house.worker():
        await house.gateway.open()
        async with house.gateway.prompting() as prompting:
            await prompting.accepted()
            await prompting.credit(1)
            assert (await prompting.next()).kind is Kind.DATA
            await prompting.cancel()
            (await house.gateway.chat("next")).assert_whole()
        assert not prompting.answer.ended

    assert await house.simulator.prompts() == 2


async def test_a_client_that_leaves_in_json_mode_keeps_the_turn_until_the_router_is_done(house: House) -> None:
    async with house.worker():
        await house.gateway.open()
        await house.simulator.arm("chat", "stall")
        async with house.gateway.prompting("first", stream=False) as prompting:
            await prompting.accepted()
            await prompting.credit()
            await until(lambda: house.simulator.struck("chat"))
            await prompting.cancel()
            following = asyncio.create_task(house.gateway.chat("second", stream=False))
            async with house.gateway.prompting("watch", key="k2") as other:
                # another key's whole prompt passes meanwhile: time enough for the second to overtake, if it could
                await other.accepted()
                await other.credit()
                assert (await other.finish()).ended
            assert not following.done()
            assert (await house.simulator.state())["max_unfinished_prompts_of_a_session"] == 1

            await house.simulator.disarm()
            (await following).assert_whole()
        assert not prompting.answer.ended
    assert (await house.simulator.state())["max_unfinished_prompts_of_a_session"] == 1


async def test_a_full_line_says_so_at_once(house: House) -> None:
    async with house.worker(queue_per_key=2):
        await house.gateway.open()
        await house.simulator.arm("chat", "hang")
        running = asyncio.create_task(house.gateway.chat())
        await until(lambda: house.simulator.struck("chat"))
        waiting = [asyncio.create_task(house.gateway.chat()) for _ in range(3)]
        refused, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        assert [task.result().code for task in refused] == ["session_busy"]

        await house.simulator.disarm()
        answers = [await task for task in (running, *waiting)]
    assert sorted(answer.code or "ok" for answer in answers) == ["ok", "ok", "ok", "session_busy"]


async def test_a_prompt_gives_up_when_its_turn_does_not_come(house: House) -> None:
    async with house.worker(queue_wait=0.3):
        await house.gateway.open()
        await house.simulator.arm("chat", "hang")
        running = asyncio.create_task(house.gateway.chat())
        await until(lambda: house.simulator.struck("chat"))
        assert (await house.gateway.chat()).code == "session_busy"

        await house.simulator.disarm()
        assert (await running).ended


# the relay


async def test_an_attempt_without_credit_never_reaches_the_router(house: House) -> None:
    async with house.worker():
        await house.gateway.open()
        async with house.gateway.prompting("never credited") as prompting:
            await prompting.accepted()
            assert (await house.gateway.chat("credited")).ended
            await prompting.cancel()

    assert await house.simulator.prompts() == 1


async def test_a_large_body_arrives_whole_in_frames(house: House) -> None:
    text = "long " * 60_000 + "canary"
    async with house.worker():
        await house.gateway.open()
        with house.gateway._prompting(text, "k1", False, {}) as prompting:
            body = prompting._body
            prompting._body = body[:100_000]
            await prompting.start()
            await prompting.accepted()
            for seq, start in enumerate(range(100_000, len(body), 100_000)):
                await house.gateway.connection.publish(
                    names.chat_body("w1", prompting.attempt.id),
                    body[start : start + 100_000],
                    headers={names.Header.SEQ: str(seq)},
                )
            await prompting.credit(10 * len(body))
            answer = await prompting.finish()

    answer.assert_whole()
    assert "canary." in answer.text


async def test_a_client_that_reads_slowly_stops_the_worker_and_loses_nothing(house: House) -> None:
    async with house.worker():
        await house.gateway.open()
        async with house.gateway.prompting("slow") as prompting:
            await prompting.accepted()
            await prompting.credit(1)
            frame = await prompting.next()
            assert frame.kind is Kind.DATA
            assert prompting.attempt.take() is None
            answer = await prompting.finish()

    answer.assert_whole()
    assert "You asked: slow." in answer.text
