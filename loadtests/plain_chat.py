"""An engine behind FastAPI, as people write it: each call is passed on, and its answer streamed back.

Run as `python -m loadtests.plain_chat PORT SOCKET`.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse


def app(socket: str) -> FastAPI:
    """Return an app in front of the engine on a Unix socket."""

    @asynccontextmanager
    async def lifespan(application: FastAPI) -> AsyncIterator[None]:
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(socket)) as session:
            application.state.session = session
            yield

    application = FastAPI(lifespan=lifespan)

    @application.post("/v1/chat/completions")
    async def chat(request: Request) -> StreamingResponse:
        body = await request.json()
        session: aiohttp.ClientSession = application.state.session

        async def pieces() -> AsyncIterator[bytes]:
            async with session.post("http://engine/v1/chat/completions", json=body) as answer:
                async for piece in answer.content.iter_any():
                    yield piece

        return StreamingResponse(pieces(), media_type="text/event-stream")

    @application.get("/health")
    async def health() -> dict[str, bool]:
        return {"ready": True}

    return application


if __name__ == "__main__":
    uvicorn.run(app(sys.argv[2]), port=int(sys.argv[1]), log_level="error")
