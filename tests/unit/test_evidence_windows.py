"""What a worker counts, by half seconds of wall time."""

from __future__ import annotations

import math
import pickle
from bisect import bisect_left

import pytest

from gateway.metrics.counts import BUCKETS
from gateway.metrics.evidence import PairSeconds
from gateway.metrics.evidence_windows import (
    EVIDENCE_SECONDS,
    NO_CALLS,
    NO_PAIRED,
    WINDOWS_KEPT,
    WINDOWS_TOLD,
    ToldWindows,
    WindowCutter,
    window_number,
)
from gateway.metrics.sticky_callers import MAX_STICKY_CALLERS, StickyCallers
from gateway.metrics.tally import Numbers, Tally

START = 1_000_000.0
"""Seconds since 1970."""


class Clocks:
    """A monotonic clock and one of the wall, which a test sets."""

    def __init__(self) -> None:
        self.monotonic = 50.0
        self.wall = START

    def pass_by(self, seconds: float) -> None:
        self.monotonic += seconds
        self.wall += seconds


class Cut:
    """Numbers with a cutter, whose windows are closed in time."""

    def __init__(self) -> None:
        self.clocks, self.numbers = Clocks(), Numbers()
        self.cutter = WindowCutter(self.numbers, lambda: self.clocks.monotonic, lambda: self.clocks.wall)

    def count(self, has_failed: bool = False, seconds: float = 0.002) -> None:
        self.cut()
        self.numbers.evidence.count(has_failed, seconds, bisect_left(BUCKETS, seconds))

    def cut(self) -> None:
        if self.clocks.monotonic >= self.cutter.end:
            self.cutter.cut()


@pytest.fixture
def cut() -> Cut:
    return Cut()


def test_calls_are_in_the_half_second_in_which_they_are_answered(cut: Cut) -> None:
    cut.count()
    cut.count(has_failed=True, seconds=7.0)
    cut.clocks.pass_by(EVIDENCE_SECONDS)
    cut.count()
    cut.clocks.pass_by(5.0)
    cut.cut()
    told = cut.cutter.after(0)
    first = window_number(START)
    assert [window.number for window in told.windows] == [first, first + 1]
    assert [(window.calls.calls, window.calls.errors) for window in told.windows] == [(2, 1), (1, 0)]
    assert [sum(window.calls.request) for window in told.windows] == [2, 1]
    assert len(told.windows[0].calls.request) == len(BUCKETS) + 1
    assert told.until == first + 10, "the windows without calls are over too"


def test_the_present_window_is_not_told(cut: Cut) -> None:
    cut.count()
    cut.clocks.pass_by(EVIDENCE_SECONDS / 2)
    cut.cut()
    told = cut.cutter.after(0)
    assert told.windows == ()
    assert told.until == window_number(START) - 1


def test_a_window_is_told_until_it_has_arrived_and_no_longer(cut: Cut) -> None:
    for _ in range(3):
        cut.count()
        cut.clocks.pass_by(EVIDENCE_SECONDS)
    cut.cut()
    told = cut.cutter.after(0)
    assert cut.cutter.after(0) == told
    assert [window.number for window in cut.cutter.after(told.windows[0].number).windows] == [
        window.number for window in told.windows[1:]
    ]
    assert cut.cutter.after(told.until).windows == ()


def test_only_so_many_windows_are_kept_and_told_at_once_without_a_gap(cut: Cut) -> None:
    for _ in range(WINDOWS_KEPT + 100):
        cut.count()
        cut.clocks.pass_by(EVIDENCE_SECONDS)
    cut.cut()
    after, numbers = 0, []
    for _ in range(WINDOWS_KEPT // WINDOWS_TOLD):
        told = cut.cutter.after(after)
        assert len(told.windows) <= WINDOWS_TOLD
        numbers += [window.number for window in told.windows]
        after = told.until
    assert numbers == list(range(numbers[0], numbers[0] + WINDOWS_KEPT))
    assert after == cut.cutter.number - 1


def test_a_wall_clock_that_is_set_gives_no_number_twice_and_no_longer_window(cut: Cut) -> None:
    for jump in (-3600.0, 0.0, 7200.0, -60.0, 0.0):
        cut.count()
        cut.clocks.wall += jump
        cut.clocks.pass_by(EVIDENCE_SECONDS)
        assert cut.clocks.monotonic >= cut.cutter.end
    cut.cut()
    numbers = [window.number for window in cut.cutter.after(0).windows]
    assert len(numbers) == 5
    assert numbers == sorted(set(numbers))


def test_windows_begin_with_the_wall_clock_again_after_it_was_set(cut: Cut) -> None:
    cut.clocks.wall += 100.2
    cut.clocks.pass_by(EVIDENCE_SECONDS)
    cut.cut()
    assert cut.cutter.number == window_number(cut.clocks.wall)
    assert cut.cutter.end - cut.clocks.monotonic == pytest.approx(0.3)


def test_pairs_are_in_windows_with_the_times_of_both_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    tally = Tally()
    tally.compared(0.5, False, {"a": 1}, {"b": 1}, PairSeconds(0.002, 0.3))
    tally.compared(0.0, True, {}, {}, PairSeconds(0.002, None))
    tally.not_mirrored()
    told = _told(tally, monkeypatch)
    (window,) = told.windows
    assert window.calls is NO_CALLS
    assert (window.paired.calls, window.paired.failed) == (2, 1)
    assert sum(window.paired.stable) == sum(window.paired.canary) == 1
    assert window.paired.stable != window.paired.canary
    assert (window.mirrored.compared, window.mirrored.agreeing, window.mirrored.dropped) == (2, 0.5, 1)


def test_calls_of_callers_that_stick_are_counted_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    tally = Tally()
    tally.judged(b"address", 200, 0.002)
    tally.judged(b"address", 200, 0.01, sticky=b"7")
    tally.judged(b"address", 503, 0.1, sticky=b"7")
    tally.judged(b"address", 404, 0.1, sticky=b"7")
    told = _told(tally, monkeypatch)
    (window,) = told.windows
    assert (window.calls.calls, window.bound.calls, window.bound.errors) == (3, 2, 1)
    assert window.paired is NO_PAIRED
    (caller,) = told.callers
    assert (caller.caller, caller.calls, caller.failures) == (b"7", 2, 1)
    assert caller.log_seconds == pytest.approx(math.log(0.01) + math.log(0.1))
    assert pickle.loads(pickle.dumps(told)) == told


def test_callers_are_told_again_once_they_called_again() -> None:
    callers = StickyCallers()
    for window, caller in enumerate((b"a", b"b", b"a")):
        callers.count(caller, window + 1, False, 0.1)
    assert [caller.caller for caller in callers.after(0)] == [b"a", b"b"]
    assert [(caller.caller, caller.calls) for caller in callers.after(2)] == [(b"a", 2)]
    assert list(callers.after(3)) == []


def test_who_has_not_called_for_the_longest_time_is_forgotten_and_counted_anew() -> None:
    callers = StickyCallers()
    for number in range(MAX_STICKY_CALLERS):
        callers.count(b"%d" % number, 1, False, 0.1)
    callers.count(b"0", 2, False, 0.1)
    callers.count(b"new", 3, False, 0.1)
    known = {caller.caller: caller for caller in callers.after(0)}
    assert len(known) == MAX_STICKY_CALLERS
    assert b"1" not in known
    assert known[b"0"].calls == 2
    callers.count(b"1", 4, True, 0.1)
    (again,) = callers.after(3)
    assert (again.caller, again.calls) == (b"1", 1)
    assert again.birth > known[b"new"].birth


def _told(tally: Tally, monkeypatch: pytest.MonkeyPatch) -> ToldWindows:
    """Return what a tally tells once the present window is over."""
    monkeypatch.setattr(tally._windows, "end", 0.0)
    return tally.told_windows(0)
