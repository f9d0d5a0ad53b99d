"""The proxy-router that the suite describes, as somebody outside sees it: over HTTP and with nothing of its code."""

import contextlib
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import httpx2

SECONDS = 600
"""How long the sessions of this suite last: well over the contract's 300 s, which rounding may push a duration under."""
UNKNOWN_ID = "0x" + "ab" * 32
ZERO_HASH = "0x" + "0" * 64
ZERO_ADDRESS = "0x" + "0" * 40

_HARMLESS_POSTS = frozenset({"/proxy/provider/ping", "/v1/chat/completions", "/v1/embeddings"})
"""They change nothing without a session, and a session is what only a test that may spend can have."""


class ReadingOnlyError(AssertionError):
    """A test that is not marked as spending tried to change something."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where the router is and who asks it."""

    url: str
    user: str
    password: str
    simulated: bool

    @classmethod
    def from_environment(cls) -> "Target | None":
        """The router of ROUTER_URL, ROUTER_USER (admin if missing) and ROUTER_PASSWORD; None without the first."""
        url = os.environ.get("ROUTER_URL")
        if not url:
            return None
        password = os.environ.get("ROUTER_PASSWORD")
        if not password:
            raise LookupError(
                "ROUTER_URL is set: ROUTER_PASSWORD has to be too (it stands in the router's .cookie file)"
            )
        return cls(url.rstrip("/"), os.environ.get("ROUTER_USER", "admin"), password, simulated=False)


@contextlib.contextmanager
def simulator(*arguments: str) -> Iterator[Target]:
    """A simulated router in a process of its own, on a fast chain."""
    password = secrets.token_urlsafe(12)
    command = [sys.executable, "-m", "proxy_router_sim", "--port", "0", "--block-time", "0.02", *arguments]
    environment = {**os.environ, "PROXY_ROUTER_PASSWORD": password}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as process:
        assert process.stdout is not None
        try:
            announced = process.stdout.readline()
            assert announced, "the simulator ended before it listened; start it by hand to see why"
            yield Target(json.loads(announced)["url"], "admin", password, simulated=True)
        finally:
            process.terminate()
            process.wait(10)


@dataclass(frozen=True, slots=True)
class Offer:
    """A bid whose provider answers, and what asking it for a session needs."""

    bid_id: str
    provider: str
    endpoint: str
    model_id: str
    price: int
    """wei per second"""


class Router:
    """Calls a target; refuses to change anything unless it ``may_change``."""

    _offers: ClassVar[dict[str, Offer]] = {}
    """What was found once: asking a real marketplace takes seconds, and only the simulator's changes under the suite."""

    def __init__(self, target: Target, *, may_change: bool) -> None:
        self.target = target
        self._may_change = may_change
        # A real open takes minutes at worst: three for each of its two transactions (Contract 2.6).
        self.http = httpx2.Client(
            base_url=target.url, auth=(target.user, target.password), timeout=30 if target.simulated else 400
        )
        self.anonymous = httpx2.Client(base_url=target.url, timeout=30)

    def close(self) -> None:
        """Let go of the connections."""
        self.http.close()
        self.anonymous.close()

    def get(self, path: str, **query: Any) -> httpx2.Response:
        """A GET with credentials, whatever it answers."""
        return self.http.get(path, params=query)

    def read(self, path: str, **query: Any) -> Any:
        """The JSON of an answer that has to be 200."""
        response = self.get(path, **query)
        assert response.status_code == 200, f"GET {path}: {response.status_code} {response.text}"
        return response.json()

    def post(
        self, path: str, body: Any = None, *, headers: dict[str, str] | None = None, **query: Any
    ) -> httpx2.Response:
        """A POST with credentials, whatever it answers. Bytes go out as they are, anything else as JSON."""
        if not (self._may_change or path in _HARMLESS_POSTS):
            raise ReadingOnlyError(f"POST {path} may change something: mark the test with `spends` or `simulator`")
        content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        return self.http.post(
            path, content=content, headers={"Content-Type": "application/json", **(headers or {})}, params=query
        )

    def control(self, path: str, body: Any = None, *, method: str = "POST") -> Any:
        """A control of the simulator: the JSON of its answer."""
        assert self.target.simulated
        response = self.http.request(method, path, json=body)
        assert response.status_code < 300, response.text
        return response.json()

    # -- what the tests need again and again ----------------------------------------------------------------------

    def wallet(self) -> str:
        """The router's wallet."""
        return str(self.read("/wallet")["address"])

    def diamond(self) -> str:
        """The contract that holds the stakes: the spender of allowances."""
        return str(self.read("/config")["Config"]["Marketplace"]["DiamondContractAddress"]).lower()

    def models(self, kind: str) -> list[dict[str, Any]]:
        """Models of a kind, without those that attest what they run (an open in two steps loses that)."""
        models = self.read("/blockchain/models")["models"]
        return [m for m in models if m["ModelType"] == kind and "tee" not in {tag.lower() for tag in m["Tags"]}]

    def offer(self, kind: str) -> Offer:
        """The cheapest bid of the first model of a kind whose provider answers a ping."""
        if not self.target.simulated and (kind in self._offers):
            return self._offers[kind]
        found = self._offers[kind] = self._find_offer(kind)
        return found

    def _find_offer(self, kind: str) -> Offer:
        endpoints = {p["Address"]: p["Endpoint"] for p in self.read("/blockchain/providers")["providers"]}
        for model in self.models(kind)[:20]:
            bids = self.read(f"/blockchain/models/{model['Id']}/bids/active", limit=255)["bids"]
            for bid in sorted(bids, key=lambda bid: int(bid["PricePerSecond"])):
                endpoint = endpoints.get(bid["Provider"], "")
                if self.ping(bid["Provider"], endpoint).status_code == 200:
                    return Offer(bid["Id"], bid["Provider"], endpoint, model["Id"], int(bid["PricePerSecond"]))
        raise AssertionError(f"no provider of a model of type {kind} answers")

    def ping(self, provider: str, endpoint: str) -> httpx2.Response:
        """Ask a provider for a sign of life."""
        return self.post("/proxy/provider/ping", {"providerAddr": provider, "providerUrl": endpoint})

    def stake(self, offer: Offer, seconds: int = SECONDS) -> int:
        """What a session of ``seconds`` locks, in wei (Contract 3)."""
        supply = int(self.read("/blockchain/token/supply")["supply"])
        budget = int(self.read("/blockchain/sessions/budget")["budget"])
        return supply * offer.price * seconds // budget

    def initiate(self, offer: Offer, stake: int) -> dict[str, Any]:
        """The first step of an open."""
        wish = {
            "user": self.wallet(),
            "provider": offer.provider,
            "spend": str(stake),
            "bidId": offer.bid_id,
            "providerUrl": offer.endpoint,
        }
        response = self.post("/proxy/sessions/initiate", wish)
        assert response.status_code == 200, response.text
        return dict(response.json())

    def send_approval(self, agreed: dict[str, Any], stake: int) -> httpx2.Response:
        """The second step of an open, whatever it answers."""
        return self.post(
            "/blockchain/sessions",
            {
                "approval": agreed["approval"],
                "approvalSig": agreed["approvalSig"],
                "stake": str(stake),
                "directPayment": False,
            },
        )

    def open(self, kind: str = "LLM") -> str:
        """A session of SECONDS with a model of a kind. Returns its id."""
        offer = self.offer(kind)
        stake = self.stake(offer)
        response = self.send_approval(self.initiate(offer, stake), stake)
        assert response.status_code == 200, response.text
        return str(response.json()["sessionID"])

    def session(self, session_id: str) -> dict[str, Any]:
        """A session as the chain has it."""
        return dict(self.read(f"/blockchain/sessions/{session_id}")["session"])

    def chat(self, session_id: str, text: str = "Say hello.", **fields: Any) -> httpx2.Response:
        """A prompt; the whole answer as bytes, streamed or not."""
        body = {"messages": [{"role": "user", "content": text}], **fields}
        return self.post("/v1/chat/completions", body, headers={"session_id": session_id})


def error_of(response: httpx2.Response) -> str:
    """The text of an error, which has to be the one field of a JSON object (Contract 0)."""
    assert response.headers["Content-Type"] == "application/json; charset=utf-8"
    body = response.json()
    assert list(body) == ["error"]
    return str(body["error"])
