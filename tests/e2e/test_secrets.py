"""Secrets of a full run are nowhere in clear: not in a log, a database, a stream, an answer or a message on the bus."""

import secrets
from dataclasses import dataclass, field, replace
from typing import Any

import httpx2
import pytest
from morpheus_auth.settings import DEVELOPMENT_DELEGATE

from tests.collector import Collector
from tests.e2e.house import SERVICES, Account, House
from tests.e2e.operations import ROWS, World
from tests.e2e.secret_search import Planted, search
from tests.e2e.test_session_endpoints import fault, strikes

Json = dict[str, Any]

AUTH = "/api/v1/auth"
SIGNATURE_MAY_BE_IN = (
    "bus",
    "database auth.delegations",
    "database local.oplog.rs",
    f"POST {AUTH}/delegation 201",
    f"GET {AUTH}/delegation 200",
    f"GET {AUTH}/delegation/active 200",
)
"""A delegation is kept as it was sent and shown again: its signature may be with auth, on the way there and in the answers."""
DONE_BY_HAND = {f"POST {AUTH}/refresh", f"POST {AUTH}/keys/{{key_id}}/rotate", f"GET {AUTH}/deletions/{{token}}"}
"""Their answers or addresses hold secrets, or they need one that is not there yet."""
OF_EACH_KIND = (
    "password",
    "invite code",
    "first refresh token",
    "first access token",
    "API key",
    "the secret half of the API key",
    "private key",
    "delegation signature",
    "reset token",
    "deletion token",
)
"""What is sent to where it does not belong; a second secret of a kind would be treated as the first."""
DELETED_SECONDS = 60.0


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
        self.secrets: dict[str, Planted] = {}

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

    def plant_bytes(self, what: str, text: str, *may_be_in: str) -> str:
        """Remember a secret whose text is 0x and hex."""
        self.secrets[what] = Planted(text, bytes.fromhex(text[2:]), may_be_in)
        return text

    def plant_key(self, what: str, key: str, shown_by: str) -> str:
        """Remember an API key; its half before the dot is its prefix, and public."""
        self.plant(f"the secret half of the {what}", key.partition(".")[2], shown_by)
        return self.plant(what, key, shown_by)

    def succeed(self, operation: str, body: Any = None, headers: dict[str, str] | None = None, **more: Any) -> Any:
        """Ask for what is meant to be done, and see that it is: what failed would have put its secret nowhere."""
        answer = self.ask(operation, body, headers, **more)
        assert answer.is_success, f"{operation}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def account(self) -> Account:
        """Register with what there is to register with, and log in."""
        email, password = f"{secrets.token_hex(6)}@example.com", self.plant("password", secrets.token_urlsafe(18))
        code = self.plant("invite code", self.house.made_by_admin("invite"))
        self.succeed(f"POST {AUTH}/register", {"email": email, "password": password, "invite_code": code})
        by_token, refresh_token = self.log_in("first", email, password)
        key = self.succeed(f"POST {AUTH}/keys", {"name": "test"}, by_token)
        self.plant_key("API key", key["key"], f"POST {AUTH}/keys 201")
        return Account(email, password, refresh_token, by_token, key["key"], key["id"])

    def log_in(self, which: str, email: str, password: str) -> tuple[dict[str, str], str]:
        """Return the header for a new login, and its refresh token."""
        tokens = self.succeed(f"POST {AUTH}/login", {"email": email, "password": password})
        shown = f"POST {AUTH}/login 200"
        self.plant(f"{which} refresh token", tokens["refresh_token"], shown)
        self.plant(f"{which} access token", tokens["access_token"], shown)
        return {"Authorization": f"Bearer {tokens['access_token']}"}, tokens["refresh_token"]

    def everything(self, account: Account, bid_id: str) -> Account:
        """Call each operation of the table as it is meant but those that end something; return the account with its new key."""
        ids = {"key": account.key_id, "operation": account.key_id}
        house = self.house
        world = World(account.email, account.password, account.refresh_token, ids, house.llm, house.embedder, bid_id)
        self.plant_bytes("private key", world.private_key)
        self.plant_bytes("delegation signature", world.signature, *SIGNATURE_MAY_BE_IN)
        stored = set()
        for operation, row in ROWS.items():
            if operation.startswith("DELETE") or operation in DONE_BY_HAND or row.ends:
                continue
            by = account.by_key if row.access.takes_keys else account.by_token
            path = operation
            for name, kind in row.objects.items():
                path = path.replace(f"{{{name}}}", ids.get(kind, world.word))
            answer = self.ask(path, None if row.body is None else row.body(world), by, params=row.query(world))
            stored |= {operation} if answer.status_code == 201 else set()
        assert {f"POST {AUTH}/private-key", f"POST {AUTH}/delegation"} <= stored
        active = self.succeed(f"GET {AUTH}/delegation/active", None, account.by_token)
        assert active["signed_delegation_data"]["signature"] == world.signature
        tokens = self.succeed(f"POST {AUTH}/refresh", {"refresh_token": account.refresh_token})
        shown = f"POST {AUTH}/refresh 200"
        self.plant("its successor", tokens["refresh_token"], shown)
        self.plant("its access token", tokens["access_token"], shown)
        rotate = f"POST {AUTH}/keys/{account.key_id}/rotate"
        key = self.succeed(rotate, {"grace_seconds": 3_600}, account.by_token)["key"]
        rotated = replace(account, key=self.plant_key("rotated key", key, f"{rotate} 200"))
        for each in (account, rotated):
            self.succeed(f"GET {AUTH}/keys/current", None, each.by_key)
        return rotated

    def ends(self, account: Account) -> None:
        """Change and then end all that the account is, one after the other."""
        by, email = account.by_token, account.email
        new = self.plant("new password", secrets.token_urlsafe(18))
        self.succeed(f"POST {AUTH}/password", {"current_password": account.password, "new_password": new}, by)
        token = self.plant("reset token", self.house.made_by_admin("reset-link", email))
        password = self.plant("password after it", secrets.token_urlsafe(18))
        self.succeed(f"POST {AUTH}/password/reset", {"token": token, "new_password": password})
        assert self.ask(f"GET {AUTH}/me", None, by).status_code == 401
        by, _ = self.log_in("second", email, password)
        self.succeed(f"POST {AUTH}/logout", {}, by)
        by, _ = self.log_in("third", email, password)
        delegation = self.succeed(f"GET {AUTH}/delegation/active", None, by)["id"]
        self.succeed(f"DELETE {AUTH}/delegation/{delegation}", None, by)
        # what goes with the account stays until then
        world = World(email, password, "", {}, "", "", "")
        self.plant_bytes("second delegation signature", world.signature, *SIGNATURE_MAY_BE_IN)
        self.plant_bytes("second private key", world.private_key)
        for path in ("private-key", "delegation"):
            row = ROWS[f"POST {AUTH}/{path}"]
            assert row.body is not None
            self.succeed(f"POST {AUTH}/{path}", row.body(world), by)
        self.succeed(f"DELETE {AUTH}/private-key", None, by)
        self.succeed(f"POST {AUTH}/private-key", {"private_key": world.private_key}, by)
        key = self.succeed(f"POST {AUTH}/keys", {"name": "test"}, by)
        self.plant_key("deleted key", key["key"], f"POST {AUTH}/keys 201")
        self.succeed(f"DELETE {AUTH}/keys/{key['id']}", None, by)
        self.succeed("POST /api/v1/session/modelsession", {}, account.by_key, params={"model_id": self.house.llm})
        self.deletion(by)

    def deletion(self, by: dict[str, str]) -> None:
        """Delete the account while its session cannot be closed: only who waits is told of an address."""
        with fault(self.house, "close", "hang"):
            answer = self.ask(f"DELETE {AUTH}/register", None, by)
            assert answer.status_code == 202, answer.text
            where = answer.json()["status_url"]
            self.plant("deletion token", where.rpartition("/")[2], f"DELETE {AUTH}/register 202")
            assert self.deletion_status(where) == "pending"
            assert strikes(self.house, "close")
        self.house.eventually(
            lambda: self.deletion_status(where) == "complete", seconds=DELETED_SECONDS, what="complete deletion"
        )

    def deletion_status(self, where: str) -> str:
        """Ask how the deletion stands. The name of the place shall not hold the token."""
        answer = self.house.http.get(self.house.stack.gateway_url + where)
        self.told.keep(f"GET {AUTH}/deletions/…", answer)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["status"])

    def mistakes(self) -> None:
        """Put a secret of each kind where it does not belong: addresses, wrong headers, wrong fields, bodies that are none."""
        other = self.house.new_account(automation=False)
        for secret in [self.secrets[kind].text for kind in OF_EACH_KIND]:
            bearer = {"Authorization": f"Bearer {secret}"}
            self.mistake("GET /api/v1/models/…", f"/api/v1/models/{secret}", {})
            self.mistake("DELETE /api/v1/auth/keys/…", f"/api/v1/auth/keys/{secret}", bearer, "DELETE")
            self.mistake("GET /…", f"/{secret}", bearer)
            self.mistake("GET /api/v1/models?…", f"/api/v1/models?key={secret}&key={secret}", {})
            self.mistake("GET /api/v1/session", "/api/v1/session", bearer)
            self.mistake("GET /api/v1/session Basic", "/api/v1/session", {"Authorization": f"Basic {secret}"})
            self.mistake("GET /api/v1/session bare", "/api/v1/session", {"Authorization": secret})
            self.mistake("GET /api/v1/auth/deletions/…", f"{AUTH}/deletions/{secret}x", {})
            self.in_fields_of_others(secret, other.by_token)
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

    def in_fields_of_others(self, secret: str, by: dict[str, str]) -> None:
        """Send a secret as somebody who is let in, in each field of what changes credentials."""
        for path, bodies in {
            "password": (
                {"current_password": [secret], "new_password": {secret: secret}},
                {"current_password": secret, "new_password": "short"},
                {"current_password": "wrong", "new_password": secret},
            ),
            "password/reset": (
                {"token": secret, "new_password": secret},
                {"token": secret + "x", "new_password": "short"},
                {"token": {secret: secret}, "new_password": [secret]},
            ),
            "private-key": ({"private_key": f"{secret} "}, {"private_key": {secret: secret}}, {secret: secret}),
            "logout": ({"all": secret},),
            "keys": ({"scopes": [secret]}, {"allowed_models": [secret]}, {"expires_at": secret}),
        }.items():
            for body in (*bodies, [secret], secret):
                self.mistake(f"POST auth/{path}", f"{AUTH}/{path}", by, "POST", json=body)

    def mistaken_delegations(self) -> None:
        """Send a secret of each kind as a delegation, or as the name of one. Auth reads those, so that both are on the bus, and it
        is to be nowhere behind it.
        """
        by = self.house.new_account(automation=False).by_token
        for secret in [self.secrets[kind].text for kind in OF_EACH_KIND]:
            self.mistake("DELETE auth/delegation/…", f"{AUTH}/delegation/{secret}", by, "DELETE")
            for body in (
                {"delegate_address": secret, "signed_delegation_data": secret},
                {"delegate_address": "0x" + "1" * 40, "signed_delegation_data": {secret: secret}},
                {"delegate_address": DEVELOPMENT_DELEGATE, "signed_delegation_data": {"signature": secret}},
                {"delegate_address": DEVELOPMENT_DELEGATE, "signed_delegation_data": f'{{"salt": "{secret}"}}'},
                [secret],
                secret,
            ):
                self.mistake("POST auth/delegation", f"{AUTH}/delegation", by, "POST", json=body)

    def mistake(self, name: str, path: str, headers: dict[str, str], method: str = "GET", **more: Any) -> None:
        self.told.keep(
            f"mistake {name}",
            self.house.http.request(method, self.house.stack.gateway_url + path, headers=headers, **more),
        )

    def places(self, captured: list[bytes]) -> dict[str, bytes]:
        shown = {f"metrics of {service}": text.encode() for service, text in self.house.metrics().items()}
        return {"bus": b"".join(captured), **shown, **self.told.answers, **self.house.everything_written()}


@pytest.mark.timeout(300)
def test_no_secret_of_a_run_is_found_in_any_form_anywhere(house: House, run: Run, collector: Collector) -> None:
    """C2, C4, C39, C49, C54: passwords, keys, private keys, what the operator gives, all tokens; plain, base64, hex, URL-encoded."""
    with house.bus_capture() as captured:
        account = run.account()
        assert house.http.put("automation/settings", json={"is_enabled": True}, headers=account.by_token).is_success
        assert house.chat(account, "hello").status_code == 200
        quote = house.http.get("session/quote", params={"model_id": house.llm}, headers=account.by_key)
        run.ends(run.everything(account, quote.json()["bid_id"]))
        run.mistakes()
    run.mistaken_delegations()
    places = run.places(captured) | {"traces": collector.received}
    for needed in (
        "bus",
        "traces",
        "log auth.log",
        "log gateway.log",
        "database auth.users",
        "database local.oplog.rs",
        "stream EVENTS",
        *(f"metrics of {service}" for service in SERVICES),
    ):
        assert len(places[needed]) > 100, f"{needed} was looked into"
    assert account.email.encode() in places["database auth.users"] + places["database local.oplog.rs"]
    assert sum(status >= 400 for status in run.told.statuses.values()) > 100, "errors were made"
    assert [place for place, status in run.told.statuses.items() if status >= 500] == []
    found = search(run.secrets, places)
    assert found == [], "\n".join(found)
