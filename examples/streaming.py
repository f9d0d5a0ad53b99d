#!/usr/bin/env python3
"""A streamed answer, with what it used, and the two ways in which it can fail: before its first piece, and after it.

Needs `openai` and two environment variables: API_KEY (a key of the gateway, sk-…) and BASE_URL
(http://127.0.0.1:8000/api/v1 if not set). MODEL names the model.
"""

import os
import sys

from openai import APIError, APIStatusError, OpenAI


def main() -> None:
    """Ask one question; print the answer as it comes, then how it ended."""
    key = os.environ.get("API_KEY")
    if not key:
        sys.exit("Set API_KEY to a key of the gateway; `morpheus up` prints one.")
    # the first answer of a key may wait for its session: the SDK's own limit of ten minutes is long enough for that
    client = OpenAI(base_url=os.environ.get("BASE_URL", "http://127.0.0.1:8000/api/v1"), api_key=key)
    question = " ".join(sys.argv[1:]) or "Count to three."
    try:
        stream = client.chat.completions.create(
            model=os.environ.get("MODEL", "llama-3.3-70b"),
            messages=[{"role": "user", "content": question}],
            stream=True,
            stream_options={"include_usage": True},
        )
        for chunk in stream:
            for choice in chunk.choices:
                print(choice.delta.content or "", end="", flush=True)
                if choice.finish_reason:
                    print(f"\n[{choice.finish_reason}]")
            if chunk.usage:
                print(f"[{chunk.usage.prompt_tokens} tokens asked, {chunk.usage.completion_tokens} answered]")
    except APIStatusError as error:
        # nothing was answered; the SDK has tried again already where that could help
        sys.exit(f"{error.status_code} {error.code}: {error.message} (request {error.request_id})")
    except APIError as error:
        # what was printed is not the whole answer, and asking again runs the prompt again
        sys.exit(f"\nThe answer broke off ({error.code}): {error.message}")


if __name__ == "__main__":
    main()
