"""The demonstration: a user, a key, and one streamed chat, all through the public HTTP API."""

import asyncio
import contextlib
import json
import secrets
import shlex
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2
from pydantic import BaseModel, ValidationError

from morpheus_devstack.errors import StackError
from morpheus_devstack.secrets import write_private

EMAIL = "demo@example.com"
PROMPT = "In one sentence: what is a decentralised AI marketplace?"
REQUEST_SECONDS = 15.0
CHAT_SECONDS = 120.0
"""The first chat opens a session; on a real chain that takes a while."""
PATIENCE_SECONDS = 20.0
"""How long an answer that asks to try again later is obeyed."""


class DemoAccount(BaseModel):
    """The demo user and key, kept between runs."""

    email: str
    password: str
    api_key: str = ""


class Demo:
    """A client of the gateway that knows nothing but its public API. Times out after `REQUEST_SECONDS`."""

    def __init__(self, base_url: str, file: Path) -> None:
        self._base_url = base_url
        self._file = file

    async def prepare(self) -> DemoAccount:
        """Return an account that works, with automation on: the one of the last run if there is one.

        Raises:
            StackError: the gateway does not let us.
        """
        async with httpx2.AsyncClient(base_url=self._base_url, timeout=REQUEST_SECONDS) as http:
            account = self._stored()
            if account is None or not await self._works(http, account):
                account = await self._renewed(http, account)
                write_private(self._file, account.model_dump_json(indent=2))
            change = {"is_enabled": True}
            await _ask(http, "PUT", "/automation/settings", json=change, token=account.api_key)
        return account

    def _stored(self) -> DemoAccount | None:
        try:
            return DemoAccount.model_validate_json(self._file.read_text())
        except (FileNotFoundError, ValidationError):
            return None

    async def _works(self, http: httpx2.AsyncClient, account: DemoAccount) -> bool:
        answer = await _send(http, "GET", "/auth/keys/current", token=account.api_key)
        return answer.status_code == httpx2.codes.OK

    async def _renewed(self, http: httpx2.AsyncClient, account: DemoAccount | None) -> DemoAccount:
        """Return an account with a new key: of the known user if he can log in, else of a new one."""
        token = await self._log_in(http, account) if account else None
        if account is None or token is None:
            account = await self._register(http)
            token = await self._log_in(http, account)
        made = await _ask(http, "POST", "/auth/keys", json={"name": "demo"}, token=token)
        return account.model_copy(update={"api_key": made["key"]})

    async def _log_in(self, http: httpx2.AsyncClient, account: DemoAccount) -> str | None:
        answer = await _send(http, "POST", "/auth/login", json=account.model_dump(include={"email", "password"}))
        if answer.status_code == httpx2.codes.UNAUTHORIZED:
            return None
        return str(_checked(answer)["access_token"])

    async def _register(self, http: httpx2.AsyncClient) -> DemoAccount:
        account = DemoAccount(email=EMAIL, password=secrets.token_urlsafe(15))
        answer = await _send(http, "POST", "/auth/register", json=account.model_dump(include={"email", "password"}))
        if answer.status_code == httpx2.codes.CONFLICT:  # of a run whose demo.json is gone, and with it the password
            account = account.model_copy(update={"email": f"demo-{secrets.token_hex(4)}@example.com"})
            answer = await _send(http, "POST", "/auth/register", json=account.model_dump(include={"email", "password"}))
        _checked(answer)
        return account

    async def model(self) -> str:
        """Return the name of a model one can chat with.

        Raises:
            StackError: the marketplace has none.
        """
        async with httpx2.AsyncClient(base_url=self._base_url, timeout=REQUEST_SECONDS) as http:
            models = (await _ask(http, "GET", "/models"))["data"]
        for model in models:
            if model.get("modelType") == "LLM":
                return str(model["id"])
        raise StackError("The marketplace has no model to chat with.")

    async def chat(self, account: DemoAccount, model: str) -> AsyncIterator[str]:
        """Yield the answer to `PROMPT` piece by piece, as it comes.

        Raises:
            StackError: there is no answer, or it broke off.
        """
        body = {"model": model, "stream": True, "messages": [{"role": "user", "content": PROMPT}]}
        headers = {"Authorization": f"Bearer {account.api_key}"}
        async with (
            httpx2.AsyncClient(base_url=self._base_url, timeout=CHAT_SECONDS) as http,
            _sentence_on_failure(),
            http.stream("POST", "/chat/completions", json=body, headers=headers) as answer,
        ):
            if answer.status_code != httpx2.codes.OK:
                await answer.aread()
                raise StackError(_complaint(answer))
            async for line in answer.aiter_lines():
                event = line.removeprefix("data: ")
                if event == "[DONE]":
                    return
                if event != line:
                    yield _text_of(json.loads(event))
            raise StackError("The demo chat broke off.")


def _text_of(chunk: dict[str, Any]) -> str:
    if "error" in chunk:
        raise StackError(f"The demo chat broke off: {chunk['error'].get('message')}")
    return "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])


@contextlib.asynccontextmanager
async def _sentence_on_failure() -> AsyncIterator[None]:
    try:
        yield
    except httpx2.HTTPError as error:
        raise StackError(f"The gateway did not answer: {str(error) or type(error).__name__}.") from error


async def _send(
    http: httpx2.AsyncClient, method: str, path: str, *, json: Any = None, token: str | None = None
) -> httpx2.Response:
    """Send a request, again while the answer is 503: a part of the stack may be a moment later than the gateway."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while True:
        async with _sentence_on_failure():
            answer = await http.request(method, path, json=json, headers=headers)
        if answer.status_code != httpx2.codes.SERVICE_UNAVAILABLE or time.monotonic() > give_up_at:
            return answer
        await asyncio.sleep(min(float(answer.headers.get("Retry-After", 1)), 1))


async def _ask(http: httpx2.AsyncClient, method: str, path: str, *, json: Any = None, token: str | None = None) -> Any:
    return _checked(await _send(http, method, path, json=json, token=token))


def _checked(answer: httpx2.Response) -> Any:
    if answer.is_error:
        raise StackError(_complaint(answer))
    return answer.json()


def _complaint(answer: httpx2.Response) -> str:
    request = answer.request
    try:
        message = answer.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = answer.text[:200]
    return f"{request.method} {request.url.path} answered {answer.status_code}: {message}"


def curl_line(base_url: str, api_key: str, model: str) -> str:
    """Return a shell command that streams a chat."""
    body = {"model": model, "stream": True, "messages": [{"role": "user", "content": "Hello!"}]}
    command = ["curl", "-N", f"{base_url}/chat/completions", "-H", f"Authorization: Bearer {api_key}"]
    return shlex.join([*command, "-H", "Content-Type: application/json", "-d", json.dumps(body, ensure_ascii=False)])


def sdk_snippet(base_url: str, api_key: str, model: str, python: str) -> str:
    """Return a shell command that does the same with OpenAI's own SDK, run by `python`."""
    return f"""{shlex.quote(python)} - <<'EOF'
from openai import OpenAI

client = OpenAI(base_url={base_url!r}, api_key={api_key!r})
stream = client.chat.completions.create(
    model={model!r}, stream=True, messages=[{{"role": "user", "content": "Hello!"}}]
)
for chunk in stream:
    for choice in chunk.choices:
        print(choice.delta.content or "", end="", flush=True)
print()
EOF"""


WriteText = Callable[[str], None]


async def show_chat(demo: Demo, account: DemoAccount, model: str, write: WriteText) -> None:
    """Write question and answer, the answer as it comes."""
    write(f"\nQ ({model}): {PROMPT}\nA: ")
    try:
        async for piece in demo.chat(account, model):
            write(piece)
    finally:
        write("\n")
