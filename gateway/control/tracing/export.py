"""The queue of spans before the collector: bounded, and full while the collector is away."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.metrics.system import SpanNumbers
from gateway.tracing.recorder import SpanRecorder
from gateway.tracing.span import Span

MAX_WAITING = 16384
_BATCH = 512
_TRIES = 5
_GATHER_SECONDS = 1.0
_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 60.0
_STOP_SECONDS = 2.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the collector took a batch."""

    failure: str = ""
    """Why it did not; "" where it did."""
    retry_after: float = 0.0
    """In how many seconds it wants to be asked again; 0 where it does not say."""
    may_pass: bool = False
    """Whether the same batch is worth another try."""
    rejected: int = 0
    """How many spans of a batch that it took it does not want."""


class Exporter(Protocol):
    """What sends spans to a collector."""

    def export(self, spans: Sequence[Span]) -> Outcome:
        """Send a batch; this may take as long as a try may."""
        ...

    def close(self) -> None:
        """End a try that is under way; from any thread."""


class SpanQueue:
    """Takes spans at any time, and never waits; what there is no room for is dropped, and counted."""

    def __init__(
        self, exporter: Exporter, limit: int = MAX_WAITING, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._exporter = exporter
        self._waiting = SpanRecorder(limit)
        self._clock = clock
        self._lock = threading.Lock()
        self._sent = self._failed = self._dropped = 0
        self._is_failing = False
        self._again: tuple[Span, ...] = ()
        """The batch that is tried again."""
        self._tries = 0
        self._pause = _FIRST_PAUSE_SECONDS
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)

    def start(self) -> None:
        """Start to send."""
        self._thread.start()

    def add(self, spans: Iterable[Span]) -> None:
        """Have spans sent."""
        self._waiting.add(spans)

    def drop(self, spans: int) -> None:
        """Count spans that were lost on their way here."""
        with self._lock:
            self._dropped += spans

    def numbers(self) -> SpanNumbers:
        """Return what became of all spans so far."""
        with self._lock:
            return SpanNumbers(self._sent, self._failed, self._dropped + self._waiting.dropped)

    def stop(self) -> None:
        """Send what waits, if the collector takes it at once, and end."""
        self._stopping.set()
        self._thread.join(_STOP_SECONDS)
        self._exporter.close()

    def _run(self) -> None:
        while not self._stopping.wait(0 if len(self._waiting) >= _BATCH else _GATHER_SECONDS):
            self._stopping.wait(self._send())
        if not self._is_failing:
            self._send()

    def _send(self) -> float:
        """Send a batch; returns for how many seconds to send no other."""
        spans = self._again or self._waiting.take(_BATCH)
        if not spans:
            return 0.0
        self._tries += 1
        try:
            outcome = self._exporter.export(spans)
        except Exception as error:
            log.debug("traces.failed", exc_info=True)
            outcome = Outcome(repr(error))
        if outcome.failure and outcome.may_pass and self._tries < _TRIES:
            self._again = spans
            return self._note(outcome)
        self._again, self._tries = (), 0
        failed = len(spans) if outcome.failure else min(outcome.rejected, len(spans))
        with self._lock:
            self._failed += failed
            self._sent += len(spans) - failed
        return self._note(outcome)

    def _note(self, outcome: Outcome) -> float:
        """Log that the collector takes no spans, or takes them again: once each time."""
        if not outcome.failure:
            if self._is_failing:
                log.info("traces.sent", extra={"failed": self._failed, "dropped": self.numbers().dropped})
            self._is_failing, self._pause = False, _FIRST_PAUSE_SECONDS
            return 0.0
        if not self._is_failing:
            log.warning("traces.unsent", extra={"reason": outcome.failure})
        self._is_failing = True
        pause = max(outcome.retry_after, self._pause)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)
        return min(pause, 10 * _LONGEST_PAUSE_SECONDS)
