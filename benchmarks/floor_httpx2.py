"""The floor with httpx2 instead of aiohttp: the client that our session workers use.

UPSTREAM=http://127.0.0.1:8082 uvicorn benchmarks.floor_httpx2:app
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

TARGET = os.environ["UPSTREAM"] + "/v1/chat/completions"
HEADERS = {"session_id": "0x" + "0" * 64, "content-type": "application/json"}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """One pool of connections for the life of the process."""
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=64)
    async with httpx2.AsyncClient(limits=limits, timeout=120, trust_env=False) as http:
        app.state.http = http
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/v1/chat/completions")
async def chat(request: Request) -> Response:
    """Pass a prompt on, and its answer back as it comes."""
    http: httpx2.AsyncClient = request.app.state.http
    asked = http.build_request("POST", TARGET, content=await request.body(), headers=HEADERS)
    answer = await http.send(asked, stream=True)
    media_type = answer.headers["content-type"]
    if media_type == "text/event-stream":

        async def chunks() -> AsyncIterator[bytes]:
            try:
                async for chunk in answer.aiter_raw():
                    yield chunk
            finally:
                await answer.aclose()

        return StreamingResponse(chunks(), answer.status_code, media_type=media_type)
    await answer.aread()
    await answer.aclose()
    return Response(answer.content, answer.status_code, media_type=media_type)
