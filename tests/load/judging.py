"""What an answer has to be: exactly what the simulated provider says to this prompt, or an honest failure.

The provider's words follow from the prompt, so every byte of an answer can be told from a stranger's.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from proxy_router_sim import answers

from tests.load.client import Answer

CANARY = re.compile(rb"canary-[0-9]{2}-[0-9]{8}")
DONE = "[DONE]"


class Ending(StrEnum):
    """How an answer ended. `whole`: with all its words. `refused`: an error and nothing else. `failed`: an error in the
    stream. `left`: we hung up. `broken`: the connection broke, and we did not break it.
    """

    WHOLE = "whole"
    REFUSED = "refused"
    FAILED = "failed"
    LEFT = "left"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt. Its canary stands in it and in no other."""

    canary: str
    text: str
    model: str
    stream: bool
    max_tokens: int

    @property
    def fields(self) -> dict[str, Any]:
        """What of the body decides the answer."""
        return {"messages": [{"role": "user", "content": self.text}], "max_tokens": self.max_tokens}

    @property
    def body(self) -> bytes:
        return json.dumps({"model": self.model, "stream": self.stream, **self.fields}).encode()


@dataclass(frozen=True, slots=True)
class Judgement:
    """`foreign`: bytes that are not this prompt's. `wrong`: what must not be, in a sentence."""

    ending: Ending
    code: str | None = None
    foreign: int = 0
    wrong: str | None = None


Expect = Callable[[Question], str]
"""Returns all words of the answer to a prompt."""


def simulated(seed: int) -> Expect:
    """What a simulated router with this seed answers."""

    def expect(question: Question) -> str:
        return answers.answer(question.fields, seed)[0].text

    return expect


def judge(question: Question, answer: Answer, expect: Expect) -> Judgement:
    """Hold an answer against its prompt."""
    strangers = {canary for canary in CANARY.findall(answer.body) if canary != question.canary.encode()}
    if strangers:
        names = ", ".join(sorted(canary.decode() for canary in strangers))
        return Judgement(
            Ending.FAILED, foreign=sum(map(len, strangers)), wrong=f"{question.canary} was answered with {names}"
        )
    if not answer.status:
        return Judgement(Ending.LEFT if answer.left else Ending.BROKEN)
    if answer.status != 200:
        return _refused(question, answer)
    try:
        said, finished, code = _streamed(answer) if question.stream else _whole(answer)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        return Judgement(Ending.FAILED, wrong=f"{question.canary}: no answer in OpenAI's form: {error!r}")
    expected = expect(question)
    own = len(_common(said, expected))
    if own < len(said):
        return Judgement(
            Ending.FAILED, code, len(said[own:].encode()), f"{question.canary}: {said[own : own + 80]!r} is not its own"
        )
    if finished and said != expected:
        return Judgement(Ending.WHOLE, code, wrong=f"{question.canary}: ended as if whole after {own} characters")
    if answer.left:
        return Judgement(Ending.LEFT)
    if not answer.ended:
        return Judgement(Ending.BROKEN)
    if finished and code is None:
        return Judgement(Ending.WHOLE)
    if code is None:
        return Judgement(
            Ending.FAILED, wrong=f"{question.canary}: the stream ended without an end and without an error"
        )
    # all its words may have come before the worker was lost
    return Judgement(Ending.FAILED, code)


def _refused(question: Question, answer: Answer) -> Judgement:
    if answer.left:
        return Judgement(Ending.LEFT)
    try:
        return Judgement(Ending.REFUSED, f"{answer.status} {json.loads(answer.body)['error']['code']}")
    except (ValueError, KeyError, TypeError):
        return Judgement(Ending.REFUSED, wrong=f"{question.canary}: {answer.status} without a code")


def _whole(answer: Answer) -> tuple[str, bool, str | None]:
    if not answer.ended:
        return "", False, None
    choice = json.loads(answer.body)["choices"][0]
    return choice["message"]["content"], bool(choice["finish_reason"]), None


def _streamed(answer: Answer) -> tuple[str, bool, str | None]:
    """Return the words, whether the stream said that they are all, and the code of the error in it."""
    said: list[str] = []
    finished, done, code = False, False, None
    *events, rest = answer.body.decode().split("\n\n")
    if rest and answer.ended:
        raise ValueError(f"half an event at the end: {rest[:80]!r}")
    for event in events:
        if event.startswith(":"):
            continue
        data = event.removeprefix("data: ")
        if done:
            raise ValueError(f"more after the end: {data[:80]!r}")
        if data == DONE:
            done = True
            continue
        chunk = json.loads(data)
        if "error" in chunk:
            code = chunk["error"]["code"]
            continue
        for choice in chunk["choices"]:
            # a provider that does not stream puts its whole message there
            said.append((choice.get("delta") or choice.get("message") or {}).get("content") or "")
            finished = finished or bool(choice["finish_reason"])
    return "".join(said), finished and done, code


def _common(one: str, other: str) -> str:
    """The longest beginning that two texts share."""
    if other.startswith(one):
        return one
    return next((one[:place] for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), other)
