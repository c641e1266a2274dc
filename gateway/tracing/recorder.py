"""The spans that a process has and nobody has taken yet: bounded, as calls must never wait for them."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from gateway.tracing.span import Span

MAX_SPANS = 2048


class SpanRecorder:
    """Keeps at most `limit` spans, and counts those for which there was no room; safe for several threads."""

    def __init__(self, limit: int = MAX_SPANS) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._spans: list[Span] = []
        self._dropped = 0

    def __len__(self) -> int:
        return len(self._spans)

    def add(self, spans: Iterable[Span]) -> None:
        """Keep spans, as long as there is room."""
        spans = list(spans)
        with self._lock:
            room = max(0, self._limit - len(self._spans))
            self._spans += spans[:room]
            self._dropped += max(0, len(spans) - room)

    @property
    def dropped(self) -> int:
        """How many were dropped so far."""
        return self._dropped

    def drop(self, spans: int) -> None:
        """Count spans that were lost after they were taken."""
        with self._lock:
            self._dropped += spans

    def take(self, limit: int | None = None) -> tuple[Span, ...]:
        """Return the oldest spans, which are kept no more."""
        with self._lock:
            taken = tuple(self._spans[:limit])
            del self._spans[: len(taken)]
        return taken
