"""What a worker counts as evidence, cut into half seconds of wall time, so that workers can be compared.

Counting costs nothing more: once a half second is over, what was counted meanwhile is the difference between
two sums. A call is in the half second in which it was answered.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from gateway.metrics.counts import Histogram, MirroredCalls
from gateway.metrics.evidence import EvidenceCounts, PairedCalls
from gateway.metrics.pairs import AnswerPairs
from gateway.metrics.sticky_callers import MAX_STICKY_CALLERS, StickyCaller

EVIDENCE_SECONDS = 0.5
"""How long a window is."""
WINDOWS_KEPT = 1200
"""So many windows with calls are kept of a worker: ten minutes of a busy one."""
WINDOWS_TOLD = 300
"""So many windows are told at once, at most."""

Counts = tuple[int, ...]
"""Counts by the buckets of a histogram; () where all are 0."""


@dataclass(frozen=True, slots=True)
class PairedWindow:
    """Mirrored calls of one window, see `PairedCalls`."""

    calls: int = 0
    failed: int = 0
    stable: Counts = ()
    canary: Counts = ()


@dataclass(frozen=True, slots=True)
class WindowCalls:
    """Callers' calls of one window, see `EvidenceCounts`."""

    calls: int = 0
    errors: int = 0
    request: Counts = ()
    first_token: Counts = ()
    per_token: Counts = ()


NO_CALLS = WindowCalls()
NO_PAIRED = PairedWindow()
NO_MIRRORED = MirroredCalls()
NO_ANSWERS = AnswerPairs()


@dataclass(frozen=True, slots=True)
class EvidenceWindow:
    """What one worker counted in one window: callers' calls, and those that were mirrored."""

    number: int
    """The windows of all workers are numbered alike: from 1970 on."""
    calls: WindowCalls = NO_CALLS
    bound: WindowCalls = NO_CALLS
    """Those of the calls whose callers stick to the version."""
    paired: PairedWindow = NO_PAIRED
    mirrored: MirroredCalls = NO_MIRRORED
    answers: AnswerPairs = NO_ANSWERS


@dataclass(frozen=True, slots=True)
class ToldWindows:
    """The windows that a worker tells of: those after `after`, up to `until`, without the empty ones."""

    after: int = 0
    until: int = 0
    present: int = 0
    """The window in which it tells them."""
    windows: tuple[EvidenceWindow, ...] = ()
    callers: tuple[StickyCaller, ...] = ()
    """Who has called since, and sticks to the version, with all that is known of them."""

    def bounded(self) -> ToldWindows:
        """Return the same, and no more than a worker may tell at once."""
        if len(self.windows) <= WINDOWS_TOLD and len(self.callers) <= MAX_STICKY_CALLERS:
            return self
        return replace(self, windows=self.windows[:WINDOWS_TOLD], callers=self.callers[:MAX_STICKY_CALLERS])


class Sums(Protocol):
    """All that a worker has counted so far, see `Numbers`."""

    evidence: EvidenceCounts
    bound: EvidenceCounts
    paired: PairedCalls
    mirrored: MirroredCalls
    pairs: AnswerPairs


def window_number(seconds: float) -> int:
    """Return the number of the window at a time, in seconds since 1970."""
    return int(seconds / EVIDENCE_SECONDS)


class WindowCutter:
    """The windows of one worker. Not safe to use from several threads.

    Whoever counts calls `cut` before, once `clock` has come to `end`.

    Args:
        sums: what is counted, and goes on.
        clock: a monotonic clock, in seconds.
        wall: seconds since 1970.
    """

    def __init__(
        self,
        sums: Sums,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._sums = sums
        self._clock = clock
        self._wall = wall
        self._closed: deque[EvidenceWindow] = deque(maxlen=WINDOWS_KEPT)
        self._before = _Marks(sums)
        self.number = 0
        """The number of the present window."""
        self.end = 0.0
        """When the present window ends, by `clock`."""
        self._begin(0)

    def cut(self) -> None:
        """Close the present window, and begin the one that it is time for."""
        window = self._before.until(self.number, self._sums)
        if window is not None:
            self._closed.append(window)
            self._before = _Marks(self._sums)
        self._begin(self.number + 1)

    def after(self, number: int) -> ToldWindows:
        """Return the closed windows after the one with `number`: the first of them, where there are many."""
        windows = [window for window in self._closed if window.number > number]
        until = self.number - 1
        if len(windows) > WINDOWS_TOLD:
            windows = windows[:WINDOWS_TOLD]
            until = windows[-1].number
        return ToldWindows(number, until, self.number, tuple(windows))

    def _begin(self, lowest: int) -> None:
        wall = self._wall()
        # A wall clock that is set back gives no number twice, and no longer window.
        self.number = max(lowest, window_number(wall))
        left = (self.number + 1) * EVIDENCE_SECONDS - wall
        self.end = self._clock() + min(left, EVIDENCE_SECONDS)


class _Marks:
    """Where all sums stood at a moment."""

    __slots__ = ("_answers", "_bound", "_calls", "_mirrored", "_paired")

    def __init__(self, sums: Sums) -> None:
        self._calls, self._bound = _marked(sums.evidence), _marked(sums.bound)
        paired = sums.paired
        self._paired = PairedWindow(
            paired.calls, paired.failed, tuple(paired.stable.counts), tuple(paired.canary.counts)
        )
        self._mirrored, self._answers = sums.mirrored, sums.pairs

    def until(self, number: int, sums: Sums) -> EvidenceWindow | None:
        """Return what was counted since; None where nothing was."""
        has_calls = sums.evidence.calls != self._calls.calls
        has_pairs = sums.mirrored is not self._mirrored or sums.pairs is not self._answers
        if not has_calls and not has_pairs:
            return None
        return EvidenceWindow(
            number,
            _calls_since(self._calls, sums.evidence) if has_calls else NO_CALLS,
            _calls_since(self._bound, sums.bound) if has_calls else NO_CALLS,
            _pairs_since(self._paired, sums.paired) if has_pairs else NO_PAIRED,
            sums.mirrored - self._mirrored if has_pairs else NO_MIRRORED,
            sums.pairs - self._answers if has_pairs else NO_ANSWERS,
        )


def _marked(counts: EvidenceCounts) -> WindowCalls:
    times = (tuple(times.counts) for times in (counts.request, counts.first_token, counts.per_token))
    return WindowCalls(counts.calls, counts.errors, *times)


def _calls_since(mark: WindowCalls, counts: EvidenceCounts) -> WindowCalls:
    if counts.calls == mark.calls:
        return NO_CALLS
    return WindowCalls(
        counts.calls - mark.calls,
        counts.errors - mark.errors,
        _counts_since(mark.request, counts.request),
        _counts_since(mark.first_token, counts.first_token),
        _counts_since(mark.per_token, counts.per_token),
    )


def _pairs_since(mark: PairedWindow, counts: PairedCalls) -> PairedWindow:
    if counts.calls == mark.calls:
        return NO_PAIRED
    return PairedWindow(
        counts.calls - mark.calls,
        counts.failed - mark.failed,
        _counts_since(mark.stable, counts.stable),
        _counts_since(mark.canary, counts.canary),
    )


def _counts_since(mark: Counts, histogram: Histogram) -> Counts:
    since = tuple(now - then for now, then in zip(histogram.counts, mark, strict=True))
    return since if any(since) else ()
