"""The floor: a pass-through with the same parts as ours and nothing of what makes a gateway. No auth, no bus, no checks.

UPSTREAM=http://127.0.0.1:8082 uvicorn benchmarks.floor:app
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

TARGET = os.environ["UPSTREAM"] + "/v1/chat/completions"
HEADERS = {"session_id": "0x" + "0" * 64, "content-type": "application/json"}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """One pool of connections for the life of the process."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        app.state.http = http
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/v1/chat/completions")
async def chat(request: Request) -> Response:
    """Pass a prompt on, and its answer back as it comes."""
    body = await request.body()
    answer = await request.app.state.http.post(TARGET, data=body, headers=HEADERS)
    media_type = answer.headers["content-type"]
    if media_type == "text/event-stream":

        async def chunks() -> AsyncIterator[bytes]:
            async with answer:
                async for chunk in answer.content.iter_any():
                    yield chunk

        return StreamingResponse(chunks(), answer.status, media_type=media_type)
    async with answer:
        return Response(await answer.read(), answer.status, media_type=media_type)
