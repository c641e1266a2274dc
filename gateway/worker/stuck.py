"""A worker whose model does not end a call: the calls inside are answered, so that it can be killed."""

from __future__ import annotations

from gateway.wire.server import HttpServer
from gateway.worker.app import WorkerApp
from gateway.worker.engine_watch import ended


async def stuck(app: WorkerApp, server: HttpServer) -> str:
    """Return why the model takes no more calls, once it does not; those inside are answered with errors then.

    It is awaited on another loop than the server's, which may be what the model holds up.
    """
    reason = await ended(app)
    server.write_at_once()
    app.give_up()
    return reason
