"""What the page shows, written once for all who look at it, each time it changes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable

MAX_LISTENERS = 32
_TICK_SECONDS = 0.5
_IDLE_SECONDS = 5.0
_STOP_SECONDS = 2.0

log = logging.getLogger(__name__)


class Listener:
    """One who looks, in an event loop; it gets the newest document, and none that it was too slow for."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self._content: bytes | None = None
        self._is_over = False
        self.last: bytes | None = None
        """What it was given last; for the feed alone."""

    async def next(self, seconds: float) -> bytes | None:
        """Wait for a new document, and return it; None after `seconds` without one.

        Raises:
            EOFError: when there will be none any more.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._event.wait()
        self._event.clear()
        if self._is_over:
            raise EOFError
        content, self._content = self._content, None
        return content

    def give(self, content: bytes) -> None:
        """Give it a document; from any thread."""
        self.last = content
        self._call(self._take, content)

    def end(self) -> None:
        """Tell it that there will be no document any more; from any thread."""
        self._call(self._finish)

    def _call(self, callback: Callable[..., None], *arguments: bytes) -> None:
        # Its loop may be closed: then nobody waits.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback, *arguments)

    def _take(self, content: bytes) -> None:
        self._content = content
        self._event.set()

    def _finish(self) -> None:
        self._is_over = True
        self._event.set()


class Feed:
    """Asks for the document in a thread of its own, and hands it to all who listen where it has changed.

    Args:
        look: called twice a second while somebody listens and each five seconds else, with whether somebody
            does; returns the document then.
    """

    def __init__(self, look: Callable[[bool], bytes]) -> None:
        self._look = look
        self._lock = threading.Lock()
        self._listeners: set[Listener] = set()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="page", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """End all listeners, and look no more."""
        self._stopping.set()
        self._wake.set()
        self._end_all()
        if self._thread.is_alive():
            self._thread.join(_STOP_SECONDS)

    def join(self) -> Listener | None:
        """Listen, in the caller's event loop; None where as many do as may, or the feed has ended."""
        listener = Listener()
        with self._lock:
            if len(self._listeners) >= MAX_LISTENERS or self._stopping.is_set():
                return None
            self._listeners.add(listener)
        self._wake.set()
        return listener

    def leave(self, listener: Listener) -> None:
        """Listen no more."""
        with self._lock:
            self._listeners.discard(listener)

    @property
    def listeners(self) -> int:
        """How many listen."""
        with self._lock:
            return len(self._listeners)

    def _run(self) -> None:
        content = b""
        while not self._stopping.is_set():
            self._wake.clear()
            with self._lock:
                listeners = tuple(self._listeners)
            try:
                looked = self._look(bool(listeners))
            except Exception:
                # They come again, and are told so in the meantime.
                log.exception("page.failed")
                self._end_all()
            else:
                content = content if looked == content else looked
                for listener in listeners:
                    if listener.last is not content:
                        listener.give(content)
            self._wake.wait(_TICK_SECONDS if listeners else _IDLE_SECONDS)

    def _end_all(self) -> None:
        with self._lock:
            listeners = tuple(self._listeners)
            self._listeners.clear()
        for listener in listeners:
            listener.end()
