"""Tells others what happens to rollouts: each event is sent to each webhook, in order, as JSON."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from queue import Full, Queue

import requests

from gateway.control.rollout_status import RolloutEvent

_MOST_WAITING = 256
_SECONDS = 5.0
_TRIES = (0.0, 1.0, 5.0)

log = logging.getLogger(__name__)


class Webhooks:
    """Sends events from a thread of its own, so that no rollout waits for who is told.

    `urls` gives the webhooks of now. One that does not answer with 2xx is tried again, three times in all.
    """

    def __init__(self, urls: Callable[[], Sequence[str]]) -> None:
        self._urls = urls
        self._waiting: Queue[RolloutEvent | None] = Queue(_MOST_WAITING)
        self._session = requests.Session()
        self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)
        self._thread.start()

    def tell(self, event: RolloutEvent) -> None:
        """Have an event sent; it is dropped, and logged, where too many wait."""
        try:
            self._waiting.put_nowait(event)
        except Full:
            log.warning("webhook.dropped", extra={"model": event.model, "reason": event.reason})

    def stop(self) -> None:
        """End once what waits is sent, or has failed."""
        try:
            self._waiting.put_nowait(None)
        except Full:
            log.warning("webhook.abandoned")

    def _run(self) -> None:
        while (event := self._waiting.get()) is not None:
            for url in self._urls():
                self._send(url, event)

    def _send(self, url: str, event: RolloutEvent) -> None:
        document = {"event": "rollout.changed", **asdict(event)}
        for pause in _TRIES:
            time.sleep(pause)
            try:
                answer = self._session.post(url, json=document, timeout=_SECONDS, allow_redirects=False)
            except requests.RequestException as error:
                why = str(error)
                continue
            if answer.ok:
                return
            why = f"status {answer.status_code}"
        # The address may hold a secret: only where it leads is logged.
        log.warning(
            "webhook.failed", extra={"host": url.split("/")[2], "reason": why.replace(url, "the webhook")}
        )
