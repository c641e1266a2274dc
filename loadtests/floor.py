"""The floor: the least that a Python process can do to serve a model over HTTP.

Bare uvicorn, and ONNX Runtime on the event loop itself; no checks, metrics, versions or errors.
Run as `python -m loadtests.floor PORT MODEL`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import uvicorn

from loadtests.plain_model import PlainModel

_JSON_SIZE = b"inference-header-content-length"


class Floor:
    """A raw ASGI app with one model, which takes every call for an inference."""

    def __init__(self, model: Path) -> None:
        self._model = PlainModel(model)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one call."""
        message = await receive()
        body = message["body"]
        if message.get("more_body"):
            pieces = [body]
            while message.get("more_body"):
                message = await receive()
                pieces.append(message["body"])
            body = b"".join(pieces)
        json_size = next((int(value) for name, value in scope["headers"] if name == _JSON_SIZE), None)
        answer = self._model.answer(body, json_size)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


if __name__ == "__main__":
    port, model = sys.argv[1:]
    uvicorn.run(
        Floor(Path(model)),
        host="127.0.0.1",
        port=int(port),
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="warning",
    )
