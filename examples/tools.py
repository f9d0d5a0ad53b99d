#!/usr/bin/env python3
"""A model that calls a function of ours: two turns, the call and the answer made with its result.

Needs `openai` and two environment variables: API_KEY (a key of the gateway, sk-…) and BASE_URL
(http://127.0.0.1:8000/api/v1 if not set). MODEL names a model that can call tools.
"""

import json
import os
import sys

from openai import APIError, OpenAI
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

GET_WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "the weather in a city, now",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def get_weather(city: str) -> str:
    """Stand for something that knows."""
    return f"18 °C and rain in {city}"


def main() -> None:
    """Ask about the weather, call what the model wants called, and print what it makes of the result."""
    key = os.environ.get("API_KEY")
    if not key:
        sys.exit("Set API_KEY to a key of the gateway; `morpheus up` prints one.")
    client = OpenAI(base_url=os.environ.get("BASE_URL", "http://127.0.0.1:8000/api/v1"), api_key=key)
    model = os.environ.get("MODEL", "llama-3.3-70b")
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Do I need an umbrella in Lisbon?"}]
    try:
        first = client.chat.completions.create(model=model, messages=messages, tools=[GET_WEATHER]).choices[0].message
        calls = [call for call in first.tool_calls or () if call.type == "function"]
        if not calls:
            sys.exit(f"The model called nothing and said: {first.content}")
        messages.append(
            {
                "role": "assistant",
                "content": first.content,
                "tool_calls": [
                    {
                        "id": call.id,
                        "type": "function",
                        "function": {"name": call.function.name, "arguments": call.function.arguments},
                    }
                    for call in calls
                ],
            }
        )
        for call in calls:
            print(f"[{call.function.name} {call.function.arguments}]")
            result = get_weather(**json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
        second = client.chat.completions.create(model=model, messages=messages, tools=[GET_WEATHER])
        print(second.choices[0].message.content)
    except APIError as error:
        sys.exit(f"The gateway refused: {error.message}")


if __name__ == "__main__":
    main()
