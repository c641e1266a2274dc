"""What versions did in the last minute, from counts that only grow."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from gateway.contract import AppName
from gateway.control.state.workers import AppNumbers
from gateway.metrics.counts import MIRRORED
from gateway.metrics.tally import Numbers
from gateway.rollout.evidence import Durations

WINDOW_SECONDS = 60.0
_ERRORS = 500
_REFUSED = 400


@dataclass(frozen=True, slots=True)
class Calls:
    """How many calls callers made, and how many were answered with an error of the server or the caller."""

    all: int = 0
    errors: int = 0
    """5xx."""
    refused: int = 0
    """4xx."""


@dataclass(frozen=True, slots=True)
class Recent:
    """What a version did of late; durations in seconds, None where no call was answered."""

    rate: float
    """Calls per second, to three digits: what hardly changes is not told anew."""
    calls: int
    errors: int
    median: float | None
    p95: float | None


@dataclass(frozen=True, slots=True)
class _Sample:
    calls: Calls
    latencies: Durations


_NOTHING = _Sample(Calls(), Durations((), ()))


class RecentNumbers:
    """Keeps the counts of the last minute; for one thread."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, Mapping[AppName, _Sample]]] = deque()

    def add(self, moment: float, numbers: Mapping[AppName, AppNumbers]) -> None:
        """Take the counts of a moment, in seconds of any clock."""
        self._samples.append((moment, {app: _sample(of_app.numbers) for app, of_app in numbers.items()}))
        # One that is as old as the window is long stays: it is what the newest is compared with.
        while len(self._samples) > 1 and self._samples[1][0] <= moment - WINDOW_SECONDS:
            self._samples.popleft()

    def of(self, app: AppName) -> Recent | None:
        """Return what a version did of late; None where that is not known yet."""
        if len(self._samples) < 2:
            return None
        (first, earlier), (last, now) = self._samples[0], self._samples[-1]
        if app not in now or last <= first:
            return None
        # A version that was not there yet had no calls.
        before, after = earlier.get(app, _NOTHING), now[app]
        latencies = _difference(before.latencies, after.latencies)
        calls = max(0, after.calls.all - before.calls.all)
        return Recent(
            rate=float(f"{calls / (last - first):.3g}"),
            calls=calls,
            errors=max(0, after.calls.errors - before.calls.errors),
            median=latencies.quantile(0.5) if latencies.total else None,
            p95=latencies.quantile(0.95) if latencies.total else None,
        )


def count_calls(numbers: Numbers) -> Calls:
    """Return the calls that callers made; mirrored ones are none."""
    statuses = [(status, count) for (role, status), count in numbers.requests.items() if role != MIRRORED]
    return Calls(
        sum(count for _, count in statuses),
        sum(count for status, count in statuses if status >= _ERRORS),
        sum(count for status, count in statuses if _REFUSED <= status < _ERRORS),
    )


def _sample(numbers: Numbers) -> _Sample:
    return _Sample(count_calls(numbers), Durations(tuple(numbers.request.counts), numbers.request.bounds))


def _difference(before: Durations, after: Durations) -> Durations:
    counts = before.counts or (0,) * len(after.counts)
    pairs = zip(after.counts, counts, strict=True)
    return Durations(tuple(max(0, late - early) for late, early in pairs), after.bounds)
