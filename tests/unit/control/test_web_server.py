"""The server of the admin API and of the front, as a thread."""

from __future__ import annotations

import socket
import time
from typing import Any

import requests

from gateway.control.web.server import WebServer


async def app(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


def test_it_sleeps_while_nobody_calls_and_ends_at_once() -> None:
    server = WebServer(app, socket.create_server(("127.0.0.1", 0)))
    ticks: list[int] = []
    on_tick = server._server.on_tick

    async def count(counter: int) -> bool:
        ticks.append(counter)
        return await on_tick(counter)

    server._server.on_tick = count  # type: ignore[method-assign]
    server.start()
    host, port = server.address
    assert requests.get(f"http://{host}:{port}/", timeout=5).status_code == 204
    time.sleep(0.3)
    assert len(ticks) == 1
    began = time.monotonic()
    server.stop(grace=5.0)
    assert time.monotonic() - began < 2
    assert not server._thread.is_alive()
    server.stop()
