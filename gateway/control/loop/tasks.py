"""Tasks in other threads, for a thread that must not wait: one task for one subject at a time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor

Subject = tuple[Hashable, ...]
"""What a task is about: a verb, and what it is done to."""

_RETRY_SECONDS = 5.0

log = logging.getLogger(__name__)


class Tasks:
    """Tasks in up to `threads` threads, each named after `name`; `finished` is called after each task.

    A loop that decides by what it sees may begin the same task at every look: it runs once, and again no
    sooner than `_RETRY_SECONDS` after its last start, or at any time where it `has_own_pauses`. A task that
    raises is logged.
    """

    def __init__(
        self, threads: int, name: str, finished: Callable[[], None], has_own_pauses: bool = False
    ) -> None:
        self._finished = finished
        self._has_own_pauses = has_own_pauses
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._lock = threading.Lock()
        self._running: set[Subject] = set()
        self._not_before: dict[Subject, float] = {}

    def begin(self, subject: Subject, work: Callable[[], None]) -> None:
        """Do `work` in another thread, unless the subject's last task runs, or began a moment ago."""
        now = time.monotonic()
        with self._lock:
            self._not_before = {key: due for key, due in self._not_before.items() if due > now}
            if subject in self._running or subject in self._not_before:
                return
            self._running.add(subject)
            if not self._has_own_pauses:
                self._not_before[subject] = now + _RETRY_SECONDS
        self._pool.submit(self._run, subject, work)

    def stop(self) -> None:
        """Begin no more tasks, and do not wait for those that run."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _run(self, subject: Subject, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception:
            log.exception("task.failed", extra={"subject": " ".join(map(str, subject))})
        finally:
            with self._lock:
                self._running.discard(subject)
            self._finished()
