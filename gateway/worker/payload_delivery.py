"""Brings the records of calls from a worker to the gateway, which writes them down.

A contained worker writes no files of its own. What the gateway does not take in time is lost, and counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from gateway.contract import AppName, PayloadBatch
from gateway.worker.payloads import Payloads

_PAUSE_SECONDS = 1.0
_GATEWAY_SECONDS = 5.0

Send = Callable[[PayloadBatch], Awaitable[object]]

log = logging.getLogger(__name__)


class PayloadDelivery:
    """Sends the records of one version's calls; `send` ends once the gateway has taken a batch."""

    def __init__(self, app: AppName, payloads: Payloads, send: Send) -> None:
        self._app = app
        self._payloads = payloads
        self._send = send

    async def run(self) -> None:
        """Send each second what there is, without end."""
        while True:
            await asyncio.sleep(_PAUSE_SECONDS)
            await self.deliver()

    async def deliver(self) -> None:
        """Send what there is."""
        lines, dropped = await asyncio.to_thread(self._payloads.take)
        if not lines and not dropped:
            return
        try:
            async with asyncio.timeout(_GATEWAY_SECONDS):
                await self._send(PayloadBatch(self._app, tuple(lines), dropped))
        except Exception as error:
            self._payloads.drop(len(lines) + dropped)
            log.debug("payloads.undelivered", extra={"app": self._app, "reason": type(error).__name__})
