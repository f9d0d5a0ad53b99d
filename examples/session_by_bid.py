#!/usr/bin/env python3
"""A session opened by hand, on a bid that was looked at first: quote, open, ask, and let it run out.

Needs nothing but Python, and two environment variables: API_KEY (a key of the gateway, sk-…) and BASE_URL
(http://127.0.0.1:8000/api/v1 if not set). MODEL names the model. The session lasts ten minutes; `--close` closes it at the
end, which leaves a part of its stake on hold until midnight UTC.
"""

import json
import os
import sys
import time
import uuid
from collections.abc import Mapping
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

BASE_URL = os.environ.get("BASE_URL", "http://127.0.0.1:8000/api/v1")
MODEL = os.environ.get("MODEL", "llama-3.3-70b")
SECONDS = 600
ASK_SECONDS = 2
LONGEST_ANSWER = 900
LONGEST_OPEN = 900
WEI = 10**18


def call(path: str, body: Any = None, *, method: str = "GET", headers: Mapping[str, str] | None = None) -> Any:
    """Return what the gateway answers; what it refuses ends the program with its own words."""
    sent = {"Authorization": f"Bearer {os.environ.get('API_KEY', '')}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = Request(BASE_URL + path, data, {**sent, **(headers or {})}, method=method)  # noqa: S310 - the caller's own address
    try:
        with urlopen(request, timeout=LONGEST_ANSWER) as answer:  # noqa: S310 - the same
            return json.load(answer)
    except HTTPError as error:
        refusal = json.load(error)["error"]
        if refusal["code"] == "session_pending":
            return refusal["details"]
        sys.exit(f"{error.code} {refusal['code']}: {refusal['message']}")
    except URLError as error:
        sys.exit(f"The gateway did not answer: {error.reason}")


def main() -> None:
    """Open a session on the bid of a quote, ask one question in it."""
    quote = call(f"/session/quote?{urlencode({'model_id': MODEL, 'duration': SECONDS})}")
    cost, stake = int(quote["cost"]) / WEI, int(quote["stake"]) / WEI
    print(f"bid {quote['bid_id']}: {cost:.4f} MOR for {SECONDS} s, {stake:.4f} MOR locked until then")

    # whatever happens on the way, the same request with the same key opens one session
    key = {"Idempotency-Key": str(uuid.uuid4())}
    wish = {"sessionDuration": SECONDS}
    opened = call(f"/session/bidsession?bid_id={quote['bid_id']}", wish, method="POST", headers=key)
    give_up = time.monotonic() + LONGEST_OPEN
    while operation := opened.get("operation_id"):
        # not done within 100 s: it goes on, and is asked about
        if time.monotonic() > give_up:
            sys.exit(f"The session is not open yet; look again: GET /session/operations/{operation}")
        now = call(f"/session/operations/{operation}")
        if now["state"] == "failed":
            sys.exit(f"The session could not be opened: {now['error']['message']}")
        if now["state"] == "succeeded":
            opened = call("/session")
            break
        time.sleep(ASK_SECONDS)
    print(f"session {opened['session_id']} until {opened['expires_at']}")

    question = {"messages": [{"role": "user", "content": "Name a river."}], "session_id": opened["session_id"]}
    print(call("/chat/completions", question, method="POST")["choices"][0]["message"]["content"])
    if "--close" in sys.argv[1:]:
        print(call("/session/closesession", method="POST")["message"])


if __name__ == "__main__":
    main()
