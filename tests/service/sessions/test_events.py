"""What a session's life looks like to whoever subscribes to events."""

import json

from morpheus_common.bus.names import Stream
from morpheus_common.contracts.sessions import SESSION_EVENTS, SessionChanged
from morpheus_common.contracts.usage import USAGE_RECORDED
from nats.aio.msg import Msg

from tests.service.common.streams import messages
from tests.service.sessions.house import House, until


async def published(house: House, count: int) -> list[Msg]:
    """The events of sessions in the stream, in its order, once there are so many."""

    async def found() -> list[Msg] | None:
        events = await messages(house.account, Stream.EVENTS, at_least=count)
        of_sessions = [event for event in events if event.subject.startswith("evt.sessions.session.")]
        return of_sessions if len(of_sessions) >= count else None

    return await until(found)


async def test_a_sessions_events_come_in_order_without_a_gap_and_say_what_happened(house: House) -> None:
    async with house.worker():
        row = await house.gateway.open()
        await house.gateway.chat(model_id=house.gateway.model("qwen3-235b"))
        await house.gateway.chat()
        await house.gateway.close()
        events = await published(house, 11)

    lives: dict[str, list[dict[str, str]]] = {}
    for event in events:
        headers = event.headers or {}
        told = SessionChanged.model_validate_json(event.data)
        assert headers["ce-specversion"] == "1.0"
        assert headers["ce-source"] == "/morpheus/sessions"
        assert f"evt.{headers['ce-type']}" == event.subject
        assert headers["ce-id"] == headers["Nats-Msg-Id"]
        assert headers["ce-subject"] == told.id
        assert headers["ce-time"].endswith("Z")
        lives.setdefault(told.id, []).append(headers)
    for life in lives.values():
        assert [int(headers["ce-sequence"]) for headers in life] == list(range(1, len(life) + 1))
    stories = [[headers["ce-type"].split(".")[2] for headers in life] for life in lives.values()]
    assert stories == [
        ["requested", "opened", "parked", "resumed", "close_requested", "closed"],
        ["requested", "opened", "parked", "close_requested", "closed"],
    ]
    opened = next(event for event in events if event.subject == SESSION_EVENTS["opened"].subject)
    assert SessionChanged.model_validate_json(opened.data).session_id == row.session_id
    assert json.loads(opened.data)["stake"] == str(row.stake)


async def test_a_failed_open_is_told_as_failed(house: House) -> None:
    async with house.worker():
        await house.simulator.arm("open", "error_before", status=403, text="method not allowed")
        assert (await house.gateway.chat()).code == "open_failed"
        events = await published(house, 2)

    assert [event.subject.split(".")[3] for event in events] == ["requested", "failed"]
    assert SessionChanged.model_validate_json(events[1].data).reason == "open_failed"


async def test_no_event_and_no_log_line_holds_a_prompt_an_answer_or_an_approval(house: House) -> None:
    async with house.process() as worker:
        answer = await house.gateway.chat("the-secret-word")
        assert "the-secret-word" in answer.text
        await house.gateway.close()
        await published(house, 4)
        await until(lambda: is_told(house))
        events = await messages(house.account, Stream.EVENTS)
        approval = (await house.only_operation(kind="open"))["approval"]
        log = worker.log()

    for text in ("the-secret-word", approval, approval.removeprefix("0x")[64:]):
        assert text not in log
        assert not any(text.encode() in event.data for event in events)


async def is_told(house: House) -> bool:
    """Whether what the prompt used was told."""
    return any(event.subject == USAGE_RECORDED.subject for event in await messages(house.account, Stream.EVENTS))


async def test_events_survive_a_worker_that_dies_before_it_publishes_them(house: House) -> None:
    async with house.process() as worker:
        await house.gateway.open()
        worker.kill()
        # as if it had died between the commit and the publishing
        await house.database["outbox"].update_many({}, {"$set": {"published_at": None}})
        worker.start()

        async def all_published() -> bool:
            return await house.database["outbox"].count_documents({"published_at": None}) == 0

        await until(all_published)
        events = await published(house, 2)

    assert [int((event.headers or {})["ce-sequence"]) for event in events] == [1, 2]
