#!/usr/bin/env python3
"""One streamed chat with OpenAI's own Python SDK: the gateway is told apart by its address only.

Needs `openai` and two environment variables: API_KEY (a key of the gateway, sk-…) and BASE_URL
(http://127.0.0.1:8000/api/v1 if not set). MODEL chooses a model, else the first that is offered and answers chats is taken.
"""

import os
import sys

from openai import APIError, OpenAI


def first_chat_model(client: OpenAI) -> str:
    """Return the first model offered that answers chats (others make embeddings or speech)."""
    for model in client.models.list():
        if getattr(model, "modelType", "LLM") == "LLM":
            return model.id
    sys.exit("The gateway offers no model that answers chats.")


def main() -> None:
    """Ask one question and print the answer as it comes."""
    key = os.environ.get("API_KEY")
    if not key:
        sys.exit("Set API_KEY to a key of the gateway; `morpheus up` prints one.")
    client = OpenAI(base_url=os.environ.get("BASE_URL", "http://127.0.0.1:8000/api/v1"), api_key=key)
    question = " ".join(sys.argv[1:]) or "What is a proxy-router? One sentence."
    try:
        model = os.environ.get("MODEL") or first_chat_model(client)
        answer = client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": question}], stream=True
        )
        for chunk in answer:
            if chunk.choices:
                print(chunk.choices[0].delta.content or "", end="", flush=True)
        print()
    except APIError as error:
        sys.exit(f"The gateway refused: {error.message}")


if __name__ == "__main__":
    main()
