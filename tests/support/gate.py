"""The gate of an admin API under test, and the token that opens it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import Any

from starlette.middleware import Middleware

from gateway.control.admin.gate import Gate
from gateway.control.web.server import PEER

TOKEN = "the-token-of-the-tests-0123456789abcdef"
HOLDER = {"Authorization": f"Bearer {TOKEN}"}


def gate(owner: int | None = None) -> Middleware:
    """Return the gate of an admin API; its owner is this user, unless another is named."""
    return Middleware(
        Gate, is_token=lambda text: text == TOKEN, owner=os.geteuid() if owner is None else owner
    )


def call(
    app: Any,
    path: str,
    headers: Mapping[str, str] | None = None,
    client: str = "127.0.0.1",
    server: str = "127.0.0.1",
    peer: int | None = None,
    method: str = "GET",
    body: bytes = b"",
) -> tuple[int, bytes]:
    """Call an ASGI app as over a connection between these addresses, or from a user over its socket.

    Returns the status and the body.
    """
    lines = {"Host": "localhost", **(headers or {})}
    scope: dict[str, Any] = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(name.lower().encode(), value.encode()) for name, value in lines.items()],
        "client": (client, 50000),
        "server": (server, 8081),
        **({} if peer is None else {PEER: peer, "client": None, "server": ("/home/admin.sock", None)}),
    }
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)
