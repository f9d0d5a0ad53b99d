"""What goes on while servers fail: prompts, sessions opened and closed, accounts made and changed. All of it is written down.

Whoever is refused is told so clearly and when to come back; whatever was confirmed has to be there afterwards.
"""

import asyncio
import itertools
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import httpx2
from morpheus_devstack.ports import LOOPBACK
from morpheus_devstack.waiting import poll

from tests.faults.stack import FaultStack
from tests.faults.sweep import market_of
from tests.faults.tenant import Tenant
from tests.load.canary import PATH, Caller
from tests.load.client import Answer, Client, Unreachable
from tests.load.judging import Ending, Question, judge, simulated
from tests.load.tenants import callers
from tests.openapi import CheckedClient

PROMPTERS: Final = 8
"""Keys whose prompts come one after the other, every second one a stream."""
OPENERS: Final = 2
RESIDENTS: Final = 2
PAUSE_SECONDS: Final = 0.25
"""Between two requests of one actor, and what a refused one waits: far less than it is told, so that the return is seen."""
PROMPT_SECONDS: Final = 60.0
CALL_SECONDS: Final = 30.0
"""No answer after so long is a hang: the longest waits that are documented end before, as the stack's settings have them."""
DEFAULT_DURATION: Final = 3_600
"""Of automatic sessions, for who never changed it."""
REFUSALS: Final = frozenset({503, 504})
BUSY: Final = frozenset({"session_busy", "session_opening", "overloaded"})
"""Of status 429 or 503: what a key is told whose session rests because nobody saw the end of its last prompt."""


class Outcome(NamedTuple):
    """One answer. Times are monotonic."""

    actor: str
    kind: str
    good: bool
    began: float
    ended: float
    told: str


@dataclass
class Ledger:
    """What all actors were told, and what was confirmed to them."""

    outcomes: list[Outcome] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    opened: list[tuple[str, str]] = field(default_factory=list)
    """Key and chain session of each open that was answered 200."""
    closed: set[str] = field(default_factory=set)
    """Chain sessions whose close was answered 200."""
    asked: Counter[str] = field(default_factory=Counter)
    """How many opens each key was asked for, with an id of its own each."""
    accounts: list["Account"] = field(default_factory=list)
    stricken: frozenset[int] = frozenset()
    """Ports of gateways that are being killed: their connections break."""
    also_told: frozenset[str] = frozenset()
    """Refusals beside the usual ones that are clear for what is being done, as `401 invalid_token`."""

    def note(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    @property
    def refused(self) -> Counter[str]:
        return Counter(outcome.told for outcome in self.outcomes if not outcome.good)

    def good_since(self, moment: float) -> Counter[str]:
        """How many good answers each actor has to what it asked since then."""
        return Counter(outcome.actor for outcome in self.outcomes if outcome.good and outcome.began >= moment)

    def first_good(self, moment: float) -> dict[str, float]:
        """Seconds in which each actor was served after a moment: from its first question since then to its first good answer.

        A question from before, whose answer is lost, holds its actor up as long as is documented; that is another figure.
        """
        asked: dict[str, float] = {}
        served: dict[str, float] = {}
        for outcome in sorted(self.outcomes, key=lambda outcome: outcome.began):
            if outcome.began >= moment:
                began = asked.setdefault(outcome.actor, outcome.began)
                if outcome.good:
                    served.setdefault(outcome.actor, outcome.ended - began)
        return served


@dataclass
class Account:
    """What was confirmed to a user, and what may have happened to him beside: asked for, and no clear answer."""

    email: str
    password: str
    keys: dict[str, str] = field(default_factory=dict)
    """Secrets of the keys that were confirmed and never asked to be deactivated, by id."""
    revoked: set[str] = field(default_factory=set)
    durations: list[int] = field(default_factory=lambda: [DEFAULT_DURATION])
    """The last confirmed duration of automatic sessions (seconds), and what was asked since."""


class ServerLoad:
    """All actors of a stack. The same people go on from case to case."""

    def __init__(
        self, stack: FaultStack, made: Sequence[Caller], openers: Sequence[Tenant], bids: Sequence[str]
    ) -> None:
        self._stack = stack
        self._made = made
        self._openers = openers
        self._bids = bids
        self._expect = simulated(stack.seed)
        self._ports = list(stack.gateway_ports.values())
        self._numbers = itertools.count()
        self._http = {
            port: CheckedClient(base_url=f"http://{LOOPBACK}:{port}/api/v1/", timeout=CALL_SECONDS)
            for port in self._ports
        }
        self.ledger = Ledger()
        self.actors = (
            *(f"prompter-{number}" for number in range(len(made))),
            *(f"opener-{number}" for number in range(len(openers))),
            *(f"resident-{number}" for number in range(RESIDENTS)),
        )

    @classmethod
    async def of(cls, stack: FaultStack) -> "ServerLoad":
        """Make the people of a stack."""
        market = await market_of(stack)
        made = await callers(stack, PROMPTERS)
        openers = [await Tenant.new(stack.http) for _ in range(OPENERS)]
        return cls(stack, made, openers, [market.bid, market.other_bid])

    async def aclose(self) -> None:
        for client in self._http.values():
            await client.aclose()

    async def run(self) -> None:
        """Go on until cancelled."""
        async with asyncio.TaskGroup() as group:
            for number, caller in enumerate(self._made):
                group.create_task(self._prompt(f"prompter-{number}", number, caller))
            for number, tenant in enumerate(self._openers):
                group.create_task(self._open_and_close(f"opener-{number}", number, tenant))
            for number in range(RESIDENTS):
                group.create_task(self._reside(f"resident-{number}", number))

    # prompts

    async def _prompt(self, actor: str, number: int, caller: Caller) -> None:
        port = self._ports[number % len(self._ports)]
        client = Client(port)
        try:
            while True:
                canary = f"canary-{number:02}-{next(self._numbers):08}"
                stream = next(self._numbers) % 2 == 0
                question = Question(canary, f"{canary} goes on", caller.models[0], stream=stream, max_tokens=24)
                began = time.monotonic()
                answer = await self._ask(client, caller, question)
                ended = time.monotonic()
                if answer is None:
                    self.ledger.wrong.append(f"{actor}: no answer to a prompt for {PROMPT_SECONDS:.0f} s")
                    client.close()
                    continue
                good, told = self._judge(actor, question, answer, struck=port in self.ledger.stricken)
                kind = "stream" if stream else "json"
                self.ledger.note(Outcome(actor, kind, good, began, ended, told))
                await asyncio.sleep(PAUSE_SECONDS)
        finally:
            client.close()

    async def _ask(self, client: Client, caller: Caller, question: Question) -> Answer | None:
        try:
            async with asyncio.timeout(PROMPT_SECONDS):
                return await client.post(PATH, caller.key, question.body)
        except Unreachable:
            return Answer(0, b"", ended=False, left=False, request_id="")
        except TimeoutError:
            return None

    def _judge(self, actor: str, question: Question, answer: Answer, *, struck: bool) -> tuple[bool, str]:
        judgement = judge(question, answer, self._expect)
        told = judgement.code or judgement.ending.value
        wrong = judgement.wrong
        if judgement.ending is Ending.BROKEN and not struck:
            wrong = "the connection broke"
        elif judgement.ending is Ending.REFUSED:
            status, _, code = told.partition(" ")
            wrong = wrong or unclear(int(status), code, answer.retry_after)
        if wrong is not None:
            self.ledger.wrong.append(f"{actor}: {wrong} ({answer.request_id})")
        return judgement.ending is Ending.WHOLE, told

    # sessions

    async def _open_and_close(self, actor: str, number: int, tenant: Tenant) -> None:
        while True:
            name = secrets.token_hex(8)
            self.ledger.asked[tenant.key_id] += 1
            for_all_tries = {**tenant.by_key, "Idempotency-Key": name}
            path = f"session/bidsession?bid_id={self._bids[number % len(self._bids)]}"

            async def opened(path: str = path, headers: dict[str, str] = for_all_tries) -> httpx2.Response | None:
                return await self._call(actor, "open", "POST", path, json={"sessionDuration": 3_600}, headers=headers)

            answer = await self._until_good(opened)
            session = str(answer.json()["session_id"])
            self.ledger.opened.append((tenant.key_id, session))

            async def closed() -> httpx2.Response | None:
                return await self._call(actor, "close", "POST", "session/closesession", headers=tenant.by_key)

            if (await self._until_good(closed)).status_code == 200:
                self.ledger.closed.add(session)

    # accounts

    async def _reside(self, actor: str, number: int) -> None:
        durations = itertools.count(1_000 + number, RESIDENTS)
        while True:
            account = Account(f"{secrets.token_hex(6)}@example.com", secrets.token_urlsafe(16))
            body = {"email": account.email, "password": account.password}

            async def registered(body: dict[str, str] = body) -> httpx2.Response | None:
                # an account that the first try made and could not tell of is found taken
                return await self._call(actor, "register", "POST", "auth/register", json=body, also=(409,))

            async def logged_in(body: dict[str, str] = body) -> httpx2.Response | None:
                return await self._call(actor, "login", "POST", "auth/login", json=body)

            await self._until_good(registered)
            self.ledger.accounts.append(account)
            by_token = {"Authorization": f"Bearer {(await self._until_good(logged_in)).json()['access_token']}"}
            _ = await self._make_key(actor, account, by_token)
            key_id = await self._make_key(actor, account, by_token)
            for _ in range(4):
                await self._set_automation(actor, account, by_token, next(durations))
            del account.keys[key_id]
            if await self._revoke(actor, by_token, key_id):
                account.revoked.add(key_id)

    async def _make_key(self, actor: str, account: Account, by_token: dict[str, str]) -> str:
        async def made() -> httpx2.Response | None:
            return await self._call(actor, "key", "POST", "auth/keys", json={"name": "fault"}, headers=by_token)

        told = (await self._until_good(made)).json()
        account.keys[told["id"]] = told["key"]
        return str(told["id"])

    async def _set_automation(self, actor: str, account: Account, by_token: dict[str, str], seconds: int) -> None:
        body = {"session_duration": seconds}
        account.durations.append(seconds)
        answer = await self._call(actor, "settings", "PUT", "automation/settings", json=body, headers=by_token)
        if answer is not None:
            account.durations[:] = [seconds]

    async def _revoke(self, actor: str, by_token: dict[str, str], key_id: str) -> bool:
        async def revoked() -> httpx2.Response | None:
            return await self._call(actor, "revoke", "DELETE", f"auth/keys/{key_id}", headers=by_token, also=(404,))

        return (await self._until_good(revoked)).status_code == 200

    # every call

    async def _until_good(self, ask: Callable[[], Awaitable[httpx2.Response | None]]) -> httpx2.Response:
        while (answer := await ask()) is None:
            pass
        return answer

    async def _call(
        self, actor: str, kind: str, method: str, path: str, *, also: Sequence[int] = (), **options: Any
    ) -> httpx2.Response | None:
        """Ask once, through the gateways in turn; return what was confirmed, None if it was refused or the answer is lost.

        `also`: statuses that are as good.
        """
        port = self._ports[next(self._numbers) % len(self._ports)]
        began = time.monotonic()
        good, told, wrong, answer = False, "", None, None
        try:
            answer = await self._http[port].request(method, path, **options)
            good = answer.is_success or answer.status_code in also
            told = str(answer.status_code)
            if not good:
                code = answer.json()["error"]["code"]
                told = f"{answer.status_code} {code}"
                if told not in self.ledger.also_told:
                    wrong = unclear(answer.status_code, code, answer.headers.get("retry-after", ""))
        except httpx2.TimeoutException:
            told, wrong = "hang", f"no answer for {CALL_SECONDS:.0f} s"
        except httpx2.HTTPError as error:
            told = "broken"
            if port not in self.ledger.stricken:
                wrong = f"the connection broke: {error!r}"
        except AssertionError as error:
            told, wrong = "unlike OpenAPI", str(error)
        if wrong is not None:
            self.ledger.wrong.append(f"{actor}: {kind}: {wrong}")
        self.ledger.note(Outcome(actor, kind, good, began, time.monotonic(), told))
        await asyncio.sleep(PAUSE_SECONDS)
        return answer if good else None

    # afterwards

    async def missing(self) -> list[str]:
        """Return what was confirmed and is not there."""
        sessions = {
            row["chain_session"]: row
            async for row in self._stack.mongo["sessions"]["sessions"].find({"chain_session": {"$ne": None}})
        }
        wrong = []
        for key_id, session in self.ledger.opened:
            row = sessions.get(session)
            if row is None or row["key_id"] != key_id:
                wrong.append(f"lost: session {session} was confirmed and has no record of its key")
            elif session in self.ledger.closed and row["state"] != "closed":
                wrong.append(f"lost: the close of {session} was confirmed and it is {row['state']}")
        for account in self.ledger.accounts:
            wrong += await self._missing_of(account)
        self.ledger.accounts.clear()
        return wrong

    async def _missing_of(self, account: Account) -> list[str]:
        http = self._http[self._ports[0]]
        tokens = await http.post("auth/login", json={"email": account.email, "password": account.password})
        if tokens.status_code != 200:
            return [f"lost: an account was confirmed and its login is {tokens.status_code} {tokens.text}"]
        by_token = {"Authorization": f"Bearer {tokens.json()['access_token']}"}
        rows = (await http.get("auth/keys", headers=by_token)).json()
        active = {row["id"] for row in rows if row["is_active"]}
        wrong = [f"lost: key {key_id} was confirmed" for key_id in account.keys.keys() - active]
        wrong += [f"lost: the end of key {key_id} was confirmed" for key_id in account.revoked & active]
        for secret in account.keys.values():
            answer = await http.get("session", headers={"Authorization": f"Bearer {secret}"})
            if answer.status_code != 200:
                wrong.append(f"lost: a key that was confirmed is answered {answer.status_code}")
        settings = (await http.get("automation/settings", headers=by_token)).json()
        if settings["session_duration"] not in account.durations:
            wrong.append(f"lost: settings say {settings['session_duration']} s, and not one of {account.durations}")
        return wrong


def unclear(status: int, code: str, retry_after: str) -> str | None:
    """Say what is wrong with a refusal; None if it says clearly that, and when, it may work later."""
    if status not in REFUSALS and code not in BUSY:
        return f"refused with {status} {code}"
    if not retry_after.isdigit():
        return f"{status} {code} without a Retry-After"
    return None


async def everybody_is_served(load: ServerLoad, since: float, *, times: int, seconds: float) -> bool:
    """Wait until every actor had so many good answers to what it asked since a moment."""

    async def is_so() -> bool:
        good = load.ledger.good_since(since)
        return all(good[actor] >= times for actor in load.actors)

    return await poll(is_so, seconds=seconds, every=0.1)
