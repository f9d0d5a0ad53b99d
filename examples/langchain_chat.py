#!/usr/bin/env python3
"""LangChain with the gateway behind it: a stream, and a tool that the model calls.

Needs `langchain-openai` and two environment variables: API_KEY (a key of the gateway, sk-…) and BASE_URL
(http://127.0.0.1:8000/api/v1 if not set). MODEL names a model that can call tools.
"""

import os
import sys

from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from openai import APIError
from pydantic import SecretStr


def weather_in(city: str) -> str:
    """Tell the weather in a city."""
    return f"18 °C and rain in {city}"


get_weather = tool("get_weather", weather_in)


def main() -> None:
    """Ask a question, then one that takes a tool."""
    key = os.environ.get("API_KEY")
    if not key:
        sys.exit("Set API_KEY to a key of the gateway; `morpheus up` prints one.")
    model = ChatOpenAI(
        base_url=os.environ.get("BASE_URL", "http://127.0.0.1:8000/api/v1"),
        api_key=SecretStr(key),
        model=os.environ.get("MODEL", "llama-3.3-70b"),
    )
    try:
        for piece in model.stream("Name a river."):
            print(piece.text, end="", flush=True)
        print()
        with_tools = model.bind_tools([get_weather])
        question = HumanMessage("Do I need an umbrella in Lisbon?")
        called = with_tools.invoke([question])
        results = [get_weather.invoke(call) for call in called.tool_calls]
        print(with_tools.invoke([question, called, *results]).text)
    except APIError as error:
        sys.exit(f"The gateway refused: {error.message}")


if __name__ == "__main__":
    main()
