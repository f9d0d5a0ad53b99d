"""Secrets of a full run are nowhere in clear: not in a log, a database, a stream, an answer or a message on the bus."""

import secrets
from dataclasses import dataclass, field, replace
from typing import Any

import httpx2
import pytest

from tests.e2e.house import Account, House
from tests.e2e.operations import ROWS, World
from tests.e2e.secret_search import Planted, search

Json = dict[str, Any]

PRIVATE_KEY = secrets.token_bytes(32)
SIGNATURE = "0x" + secrets.token_hex(65)
"""Of a delegation: what was sent is kept and shown again, so it may be with auth, on the way there and in the answers."""


@dataclass
class Told:
    """Every answer of a run, by what was asked."""

    answers: dict[str, bytes] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)

    def keep(self, asked: str, answer: httpx2.Response) -> httpx2.Response:
        place = f"{asked} {answer.status_code} #{len(self.answers)}"
        self.answers[place] = repr(answer.headers).encode() + answer.content
        self.statuses[place] = answer.status_code
        return answer


@pytest.fixture
def run(house: House) -> "Run":
    return Run(house)


class Run:
    """One user who does everything that the API lets him do, and makes the mistakes that put secrets where they do not belong."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.told = Told()
        self.secrets: dict[str, Planted] = {
            "private key": Planted("0x" + PRIVATE_KEY.hex(), PRIVATE_KEY),
            "new password": Planted(secrets.token_urlsafe(18)),
            "invite code": Planted(secrets.token_urlsafe(18)),
            "reset token": Planted(secrets.token_urlsafe(24)),
            "delegation signature": Planted(
                SIGNATURE,
                bytes.fromhex(SIGNATURE[2:]),
                ("bus", "database auth.", "database local.oplog", "GET", "POST"),
            ),
        }

    def ask(
        self, operation: str, body: Any = None, headers: dict[str, str] | None = None, **more: Any
    ) -> httpx2.Response:
        method, _, path = operation.partition(" ")
        url = self.house.stack.gateway_url + path
        answer = self.house.http.request(method, url, json=body, headers=headers or {}, **more)
        return self.told.keep(operation, answer)

    def plant(self, what: str, text: str, *shown_by: str) -> str:
        """Remember a secret. `shown_by`: operations whose answer is where its owner learns it."""
        self.secrets[what] = Planted(text, may_be_in=shown_by)
        return text

    def account(self) -> Account:
        """Register with what there is to register with, and log in."""
        email, password = f"{secrets.token_hex(6)}@example.com", self.plant("password", secrets.token_urlsafe(18))
        body = {"email": email, "password": password, "invite_code": self.secrets["invite code"].text}
        assert self.ask("POST /api/v1/auth/register", body).status_code == 201
        tokens = self.ask("POST /api/v1/auth/login", {"email": email, "password": password}).json()
        shown = "POST /api/v1/auth/login 200", "POST /api/v1/auth/refresh 200"
        refresh_token = self.plant("refresh token", tokens["refresh_token"], *shown)
        by_token = {"Authorization": f"Bearer {self.plant('access token', tokens['access_token'], *shown)}"}
        key = self.ask("POST /api/v1/auth/keys", {"name": "test"}, by_token).json()
        self.plant("API key", key["key"], "POST /api/v1/auth/keys 201")
        self.plant("the secret half of the key", key["key"].partition(".")[2], "POST /api/v1/auth/keys 201")
        return Account(email, password, refresh_token, by_token, key["key"], key["id"])

    def everything(self, account: Account, bid_id: str) -> None:
        """Call each operation of the table as it is meant; then what it may not know yet; what ends things last."""
        ids = {"key": account.key_id, "operation": account.key_id, "chain session": "0x" + "0" * 64}
        word = f"w{secrets.token_hex(12)}"
        world = World(account.email, account.password, account.refresh_token, ids, self.house.llm, bid_id, word)
        for operation, row in ROWS.items():
            if operation.startswith("DELETE") or operation.endswith(("/refresh", "/logout", "/password")):
                continue
            by = account.by_key if row.access.takes_keys else account.by_token
            path = operation
            for name, kind in row.objects.items():
                path = path.replace(f"{{{name}}}", ids.get(kind, word))
            self.ask(path, None if row.body is None else row.body(world), by, params=row.query(world))
        tokens = self.ask("POST /api/v1/auth/refresh", {"refresh_token": account.refresh_token}).json()
        # within its ten seconds a spent token gets the same answer, by mistake as well
        shown = "POST /api/v1/auth/refresh 200", "mistake POST auth/refresh 200"
        self.plant("its successor", tokens["refresh_token"], *shown)
        self.plant("its access token", tokens["access_token"], *shown)
        rotated = self.ask(f"POST /api/v1/auth/keys/{account.key_id}/rotate", {}, account.by_token)
        if rotated.is_success:
            path = f"POST /api/v1/auth/keys/{account.key_id}/rotate {rotated.status_code}"
            self.plant("rotated key", rotated.json()["key"], path)

    def ends(self, account: Account) -> None:
        """What changes or ends the account. An endpoint that is not there yet answers 404, and that must not tell either."""
        by, auth = account.by_token, "/api/v1/auth"
        new = self.secrets["new password"].text
        self.ask(f"POST {auth}/private-key", {"private_key": self.secrets["private key"].text}, by)
        self.ask(f"GET {auth}/private-key", None, by)
        delegation = {"delegate_address": "0x" + "1" * 40, "signed_delegation_data": {"signature": SIGNATURE}}
        self.ask(f"POST {auth}/delegation", delegation, by)
        self.ask(f"POST {auth}/password", {"current_password": account.password, "new_password": new}, by)
        self.ask(f"POST {auth}/password/reset", {"token": self.secrets["reset token"].text, "new_password": new})
        for path in (f"{auth}/private-key", f"{auth}/keys/{account.key_id}", f"{auth}/register"):
            self.ask(f"DELETE {path}", None, by)
        self.ask(f"POST {auth}/logout", {}, by)

    def mistakes(self) -> None:
        """Put each secret where it does not belong: addresses, wrong headers, wrong fields, bodies that are none."""
        for secret in [planted.text for planted in self.secrets.values()]:
            bearer = {"Authorization": f"Bearer {secret}"}
            self.mistake("GET /api/v1/models/…", f"/api/v1/models/{secret}", {})
            self.mistake("DELETE /api/v1/auth/keys/…", f"/api/v1/auth/keys/{secret}", bearer, "DELETE")
            self.mistake("GET /…", f"/{secret}", bearer)
            self.mistake("GET /api/v1/models?…", f"/api/v1/models?key={secret}&key={secret}", {})
            self.mistake("GET /api/v1/session", "/api/v1/session", bearer)
            self.mistake("GET /api/v1/session Basic", "/api/v1/session", {"Authorization": f"Basic {secret}"})
            self.mistake("GET /api/v1/session bare", "/api/v1/session", {"Authorization": secret})
            for path in ("auth/login", "auth/register", "auth/refresh", "auth/keys", "chat/completions"):
                for body in (
                    # an e-mail address and a name are no secrets, wherever they are copied from
                    {"email": "a@example.com", "password": secret, "refresh_token": secret, "model": secret},
                    {
                        "email": {secret: secret},
                        "password": [secret],
                        "refresh_token": {"token": secret},
                        "messages": secret,
                    },
                    [secret],
                    secret,
                ):
                    self.mistake(f"POST {path}", f"/api/v1/{path}", bearer, "POST", json=body)
                broken = {"content": f'{{"password": "{secret}'.encode()}
                self.mistake(f"POST {path} broken", f"/api/v1/{path}", bearer, "POST", **broken)
                form = {"data": {"password": secret}}
                self.mistake(f"POST {path} form", f"/api/v1/{path}", bearer, "POST", **form)

    def mistake(self, name: str, path: str, headers: dict[str, str], method: str = "GET", **more: Any) -> None:
        self.told.keep(
            f"mistake {name}",
            self.house.http.request(method, self.house.stack.gateway_url + path, headers=headers, **more),
        )

    def places(self, captured: list[bytes]) -> dict[str, bytes]:
        metrics = self.house.http.get(self.house.stack.gateway_url + "/metrics").content
        return {"bus": b"".join(captured), "metrics": metrics, **self.told.answers, **self.house.everything_written()}


def test_no_secret_of_a_run_is_found_in_any_form_anywhere(house: House, run: Run) -> None:
    """C2, C4, C39, C54: password, keys, tokens, private key, invite code and reset token; plain, base64, hex, URL-encoded."""
    with house.bus_capture() as captured:
        account = run.account()
        assert house.http.put("automation/settings", json={"is_enabled": True}, headers=account.by_token).is_success
        assert house.chat(account, "hello").status_code == 200
        quote = house.http.get("session/quote", params={"model_id": house.llm}, headers=account.by_key)
        run.everything(account, quote.json()["bid_id"])
        run.ends(replace(account, by_token=_again(run, account)))
        run.mistakes()
    places = run.places(captured)
    for needed in (
        "bus",
        "log auth.log",
        "log gateway.log",
        "database auth.users",
        "database local.oplog.rs",
        "stream EVENTS",
    ):
        assert len(places[needed]) > 100, f"{needed} was looked into"
    assert account.email.encode() in places["database auth.users"] + places["database local.oplog.rs"]
    assert sum(status >= 400 for status in run.told.statuses.values()) > 100, "errors were made"
    assert [place for place, status in run.told.statuses.items() if status >= 500] == []
    found = search(run.secrets, places)
    assert found == [], "\n".join(found)


def _again(run: Run, account: Account) -> dict[str, str]:
    """A new login, for what wants a recent one."""
    answer = run.ask("POST /api/v1/auth/login", {"email": account.email, "password": account.password})
    shown = "POST /api/v1/auth/login 200"
    run.plant("second refresh token", answer.json()["refresh_token"], shown)
    return {"Authorization": f"Bearer {run.plant('second access token', answer.json()['access_token'], shown)}"}
