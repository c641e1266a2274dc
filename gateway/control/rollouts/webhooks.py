"""Webhooks: each event of a rollout is sent to each of them, in order, as JSON."""

from __future__ import annotations

import http
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from queue import Full, Queue
from urllib.parse import urlsplit

import requests
from requests.utils import get_environ_proxies

from gateway.control.state.rollout_status import RolloutEvent
from gateway.errors import RegistryUnavailable
from gateway.oci.addresses import is_link_local, is_metadata
from gateway.oci.connections import Adapter, Limits, tls_context
from gateway.oci.options import RegistryOptions

_MAX_WAITING = 256
_SECONDS = 5.0
_TRIES = (0.0, 1.0, 5.0)
_ALL_SECONDS = 60.0

log = logging.getLogger(__name__)


class Webhooks:
    """The sending of events, in threads of its own: no rollout and no other webhook waits for a webhook.

    `urls` gives the webhooks of now. An event that is not answered with 2xx is sent three times in all.
    """

    def __init__(self, urls: Callable[[], Sequence[str]]) -> None:
        self._urls = urls
        self._events = _Waiting()
        self._hooks: dict[str, _Waiting] = {}
        _begin(self._run)

    def send(self, event: RolloutEvent) -> None:
        """Have an event sent; where too many wait, it is dropped, and that is logged."""
        self._events.add(event)

    def stop(self) -> None:
        """End once the events that wait are sent, or have failed."""
        self._events.end()

    def _run(self) -> None:
        while (event := self._events.next()) is not None:
            try:
                urls = self._urls()
            except Exception:
                log.exception("webhook.unknown", extra={"model": event.model, "reason": event.reason})
                continue
            for url in [url for url in self._hooks if url not in urls]:
                self._hooks.pop(url).end()
            for url in urls:
                if url not in self._hooks:
                    self._hooks[url] = _Waiting()
                    _begin(_send_all, url, self._hooks[url])
                self._hooks[url].add(event)
        for waiting in self._hooks.values():
            waiting.end()


class _Waiting:
    """The events that wait for one thread."""

    def __init__(self) -> None:
        self._queue: Queue[RolloutEvent | None] = Queue(_MAX_WAITING)
        self._ended = False

    def add(self, event: RolloutEvent) -> None:
        try:
            self._queue.put_nowait(event)
        except Full:
            log.warning("webhook.dropped", extra={"model": event.model, "reason": event.reason})

    def end(self) -> None:
        """Have `next` return None once no event waits, or at once where the queue is full."""
        try:
            self._queue.put_nowait(None)
        except Full:
            self._ended = True

    def next(self) -> RolloutEvent | None:
        return None if self._ended else self._queue.get()


def _begin(work: Callable[..., None], *arguments: object) -> None:
    threading.Thread(target=work, args=arguments, name="webhook", daemon=True).start()


def _send_all(url: str, waiting: _Waiting) -> None:
    while (event := waiting.next()) is not None:
        try:
            _send(url, event)
        except Exception:
            log.exception("webhook.failed", extra={"host": urlsplit(url).hostname})


class _RefusedAddress(Exception):
    """The address of a webhook is none that events are sent to."""


def _check_address(_host: str, _port: int, address: str) -> None:
    """Refuse a webhook where a cloud serves its metadata, or link-local; a name may lead there."""
    if is_metadata(address) or is_link_local(address):
        raise _RefusedAddress


def _adapter() -> Adapter:
    """Return the connections of one event; the address of each is checked before anything is sent."""
    limits = Limits("webhook", _SECONDS, _ALL_SECONDS, time.monotonic() + _ALL_SECONDS)
    context = partial(tls_context, RegistryOptions(), "webhook", with_client_certificate=False)
    return Adapter(limits, _check_address, context, connections=1)


def _send(url: str, event: RolloutEvent) -> None:
    document = {"event": "rollout.changed", **asdict(event)}
    reason = ""
    with requests.Session() as session:
        # Of the environment, only the proxies; no ~/.netrc.
        session.trust_env = False
        session.mount("http://", adapter := _adapter())
        session.mount("https://", adapter)
        for pause in _TRIES:
            time.sleep(pause)
            try:
                # The body of the answer is not read: it might never end.
                answer = session.post(
                    url,
                    json=document,
                    timeout=_SECONDS,
                    allow_redirects=False,
                    stream=True,
                    proxies=get_environ_proxies(url),
                )
                answer.close()
            except _RefusedAddress:
                reason = "it is at an address where a cloud serves what belongs to this machine"
                break
            except (requests.RequestException, RegistryUnavailable) as error:
                # Its message holds the address.
                reason = type(error).__name__
                continue
            if http.HTTPStatus.OK <= answer.status_code < http.HTTPStatus.MULTIPLE_CHOICES:
                return
            reason = f"status {answer.status_code}"
    # The address may hold a secret: only the host is logged.
    log.warning("webhook.failed", extra={"host": urlsplit(url).hostname, "reason": reason})
