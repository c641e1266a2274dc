"""The evidence that workers tell of, by version."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import pytest

from gateway.contract import Announcement, AppName, WorkerState
from gateway.control.rollouts.activity import NO_ACTIVITY, Activity
from gateway.control.rollouts.collection import EvidenceCollection
from gateway.metrics.counts import MIRRORED, MirroredCalls
from gateway.metrics.evidence import PairSeconds
from gateway.metrics.evidence_windows import WINDOWS_KEPT, WINDOWS_TOLD, window_number
from gateway.metrics.pairs import AnswerPairs, FaultyAnswers, Losses
from gateway.metrics.sticky_callers import StickyCaller
from gateway.metrics.tally import Tally
from gateway.metrics.tokens import Tokens
from gateway.rollout.evidence import Side
from gateway.rollout.units import CallerCounts, Window

V1, V2 = AppName("v1"), AppName("v2")
START = 1_000_000.0


class Plane:
    """A gateway's collection, and workers that report to it whenever a test says."""

    def __init__(self) -> None:
        self.now = START
        self.workers: dict[str, Worker] = {}
        self.begin()

    def begin(self) -> None:
        """Have another gateway begin, which knows nothing."""
        self.collection = EvidenceCollection(lambda: self.now)

    def worker(self, name: str, app: AppName = V1, ready_since: float = 0.0, skew: float = 0.0) -> Worker:
        """Add a worker; its wall clock is `skew` seconds ahead."""
        worker = self.workers[name] = Worker(self, name, app, ready_since, skew)
        return worker

    def look(self) -> Mapping[AppName, Activity]:
        reports = [worker.announcement() for worker in self.workers.values()]
        return self.collection.look(reports, {V1: "iris", V2: "iris"})

    def after(self, seconds: float = 1.0) -> Mapping[AppName, Activity]:
        """Return what is seen once all workers have told what they did in a time."""
        self.now += seconds
        for worker in self.workers.values():
            worker.report()
        return self.look()


class Worker:
    """A worker that counts calls."""

    def __init__(self, plane: Plane, name: str, app: AppName, ready_since: float, skew: float) -> None:
        self._plane = plane
        self._name, self._app, self._ready_since = name, app, ready_since
        self._until = 0
        self.tally = Tally(lambda: plane.now, lambda: plane.now + skew)

    def call(self, answers: Mapping[int, int], sticky: bytes = b"") -> None:
        for status, count in answers.items():
            for _ in range(count):
                self.tally.judged(b"", status, 0.002, sticky=sticky)

    def announcement(self) -> Announcement:
        evidence = self.tally.told_windows(self._until)
        return Announcement(
            self._name, self._app, WorkerState.READY, evidence=evidence, ready_since=self._ready_since
        )

    def report(self, *, is_heard: bool = True) -> Announcement:
        """Send a report; where the answer is not heard, the worker tells the same again."""
        announcement = self.announcement()
        until = self._plane.collection.hear(announcement)
        if is_heard:
            self._until = until
        return announcement


@pytest.fixture
def plane() -> Plane:
    return Plane()


def sums(callers: Mapping[str, CallerCounts]) -> dict[str, tuple[int, int, float]]:
    """Return by caller the calls, the failures, and how many times the logarithm of 2 ms is summed up."""
    return {
        caller: (counts.calls, counts.failures, round(counts.log_seconds / math.log(0.002), 6))
        for caller, counts in callers.items()
    }


def counted(activity: Activity) -> tuple[int, int]:
    return activity.side.calls, activity.side.errors


def test_each_call_is_seen_once_with_its_version(plane: Plane) -> None:
    a, b = plane.worker("a"), plane.worker("b")
    a.call({200: 5})
    assert plane.look() == {}
    assert counted(plane.after()[V1]) == (5, 0)
    a.call({200: 3, 500: 2})
    b.call({200: 1})
    side = plane.after()[V1].side
    assert (side.calls, side.errors, side.latencies.total) == (6, 2, 6)
    b.call({200: 3, 400: 1})
    plane.worker("c", V2)
    seen = plane.after()
    assert counted(seen[V1]) == (3, 0), "what callers did wrong tells nothing of the model"
    assert seen[V2] == NO_ACTIVITY


def test_windows_say_what_each_worker_did_in_each_half_second(plane: Plane) -> None:
    a, b = plane.worker("a"), plane.worker("b")
    first = window_number(plane.now)
    a.call({200: 1})
    b.call({500: 2})
    plane.now += 0.5
    a.call({200: 3})
    seen = plane.after(0.5)[V1]
    assert [(window.worker, window.index) for window in seen.windows] == [
        ("a", first),
        ("b", first),
        ("a", first + 1),
    ]
    assert [(window.side.calls, window.side.errors) for window in seen.windows] == [(1, 0), (2, 2), (3, 0)]
    assert sum((window.side for window in seen.windows), Side()) == seen.side
    assert all(window.unbound is None for window in seen.windows)


def test_what_did_not_arrive_is_told_again_and_counts_once(plane: Plane) -> None:
    worker = plane.worker("a")
    worker.call({200: 2})
    plane.now += 1
    worker.report(is_heard=False)
    worker.call({500: 1})
    plane.now += 1
    late = worker.report(is_heard=False)
    assert counted(plane.after()[V1]) == (3, 1)
    plane.collection.hear(late)
    assert counted(plane.after()[V1]) == (0, 0)


def test_a_slow_tick_loses_nothing(plane: Plane) -> None:
    worker = plane.worker("a")
    for _ in range(60):
        worker.call({200: 1})
        plane.now += 1
        worker.report()
    seen = plane.after()[V1]
    assert counted(seen) == (60, 0)
    assert len(seen.windows) == 60


def test_another_gateway_learns_what_was_before_and_judges_none_of_it_again(plane: Plane) -> None:
    worker = plane.worker("a", ready_since=START - 100)
    for _ in range(WINDOWS_TOLD + 50):
        worker.call({200: 1}, sticky=b"7")
        plane.after()
    plane.now += 1
    plane.begin()
    worker.call({500: 1})
    seen = Activity()
    for _ in range(4):
        seen += plane.after().get(V1, NO_ACTIVITY)
    assert counted(seen) == (1, 1)
    assert seen.callers == {}
    history = plane.collection.history(V1)
    assert len(history.windows) == WINDOWS_TOLD + 51
    assert history.callers["7"].calls == WINDOWS_TOLD + 50


def test_the_history_of_before_is_in_order_whoever_tells_it_first(plane: Plane) -> None:
    workers = [plane.worker(name, ready_since=START - 100) for name in ("a", "b")]
    for _ in range(WINDOWS_KEPT):
        for worker in workers:
            worker.call({200: 1})
        plane.now += 0.5
    plane.begin()
    for _ in range(8):
        plane.after()
    windows = plane.collection.history(V1).windows
    assert len(windows) > 2 * WINDOWS_KEPT - 50
    indices = [window.index for window in windows]
    assert indices == sorted(indices)
    assert indices[-1] - indices[0] < WINDOWS_KEPT


def test_the_history_ends_where_what_is_judged_now_begins(plane: Plane) -> None:
    worker = plane.worker("a")
    worker.call({200: 2}, sticky=b"7")
    plane.after()
    assert plane.collection.history(V1).windows == ()
    worker.call({200: 1}, sticky=b"7")
    plane.after()
    history = plane.collection.history(V1)
    assert [window.side.calls for window in history.windows] == [2]
    assert sums(history.callers) == {"7": (2, 0, 2)}
    assert plane.collection.history(V2).windows == ()


def test_the_history_is_bounded(plane: Plane) -> None:
    worker = plane.worker("a")
    for _ in range(WINDOWS_KEPT + 20):
        worker.call({200: 1})
        plane.after(0.5)
    windows = plane.collection.history(V1).windows
    assert WINDOWS_KEPT - 1 <= len(windows) <= WINDOWS_KEPT
    assert windows[-1].index - windows[0].index < WINDOWS_KEPT


def test_versions_are_seen_up_to_the_same_moment(plane: Plane) -> None:
    a, b = plane.worker("a"), plane.worker("b", V2)
    a.call({200: 1})
    b.call({200: 1})
    plane.now += 1
    a.report()
    assert sum(activity.side.calls for activity in plane.look().values()) == 0
    b.report()
    assert {app: counted(activity) for app, activity in plane.look().items()} == {V1: (1, 0), V2: (1, 0)}


def test_a_worker_that_is_silent_does_not_let_the_others_wait_for_long(plane: Plane) -> None:
    a = plane.worker("a")
    plane.worker("b", V2)
    a.call({200: 1})
    plane.now += 4
    a.report()
    assert counted(plane.look()[V1]) == (1, 0)


@pytest.mark.parametrize("skew", [-3600.0, -10.0, 10.0, 3600.0])
def test_clocks_of_other_nodes_may_differ(plane: Plane, skew: float) -> None:
    stable = plane.worker("stable", V1, START)
    canary = plane.worker("canary", V2, START + skew, skew)
    seen = {V1: NO_ACTIVITY, V2: NO_ACTIVITY}
    for _ in range(30):
        stable.call({200: 1})
        canary.call({200: 1})
        seen = {app: seen[app] + activity for app, activity in plane.after().items()}
    assert counted(seen[V1]) == counted(seen[V2]) == (30, 0)
    indices = [[window.index for window in activity.windows] for activity in seen.values()]
    assert indices[0] == indices[1]
    assert len(plane.collection.history(V2).windows) == len(plane.collection.history(V1).windows)


def test_the_first_seconds_of_a_worker_are_evidence_and_no_history(plane: Plane) -> None:
    old, new = plane.worker("old", V1, START - 60), plane.worker("new", V1, START)
    for _ in range(12):
        old.call({200: 1})
        new.call({200: 1})
        assert counted(plane.after()[V1]) == (2, 0)
    plane.after()
    windows = plane.collection.history(V1).windows
    assert sum(window.worker == "old" for window in windows) == 12
    assert [window.index for window in windows if window.worker == "new"] == [
        window_number(START) + 20,
        window_number(START) + 22,
    ]
    # Who takes the place of one that died begins anew.
    plane.worker("newest", V1, plane.now).call({200: 1})
    plane.after()
    plane.after()
    assert all(window.worker != "newest" for window in plane.collection.history(V1).windows)


def test_apps_that_nobody_compares_are_forgotten(plane: Plane) -> None:
    worker = plane.worker("a")
    worker.call({200: 1})
    plane.after()
    worker.call({200: 1})
    plane.after()
    assert plane.collection.history(V1).windows
    worker.call({200: 1})
    plane.now += 1
    worker.report()
    assert plane.collection.look([worker.announcement()], {}) == {}
    assert not plane.collection.history(V1).windows
    assert counted(plane.after()[V1]) == (0, 0)


def test_what_a_version_finds_unfit_while_it_runs_counts_as_its_error(plane: Plane) -> None:
    worker = plane.worker("a")
    for is_unfit in (True, False, True):
        worker.tally.judged(b"", 400, 0.002, is_unfit)
    worker.tally.answered(MIRRORED, 400, request=0.002, queue=0.0, compute=0.001, is_unfit=True)
    assert counted(plane.after()[V1]) == (2, 2)


def test_calls_that_are_no_evidence_are_seen_in_no_window(plane: Plane) -> None:
    worker = plane.worker("a")
    for role in ("canary", "stable", ""):
        worker.tally.answered(role, 500, request=0.002, queue=0.0, compute=0.001)
        worker.tally.refused(role, 503)
    assert plane.after()[V1].side == Side()


def test_callers_that_stick_are_told_apart(plane: Plane) -> None:
    worker = plane.worker("a")
    worker.call({200: 2, 500: 1}, sticky=b"7")
    worker.call({200: 4})
    seen = plane.after()[V1]
    (window,) = seen.windows
    assert window.unbound is not None
    assert (window.side.calls, window.unbound.calls, window.unbound.errors) == (7, 4, 0)
    assert sums(seen.callers) == {"7": (3, 1, 3)}
    worker.call({200: 1}, sticky=b"7")
    plane.worker("b").call({500: 1}, sticky=b"7")
    assert sums(plane.after()[V1].callers) == {"7": (2, 1, 2)}


def test_mirrored_calls_are_those_since_the_last_look(plane: Plane) -> None:
    tally = plane.worker("a").tally
    tally.compared(0.5, False, {"a": 1}, {"b": 1})
    plane.after()
    tally.compared(1.0, False, {"a": 1}, {"a": 1}, PairSeconds(0.002, 0.2))
    tally.compared(0.0, True, {}, {}, PairSeconds(0.002, None))
    tally.not_mirrored()
    activity = plane.after()[V1]
    assert activity.mirrored == MirroredCalls(2, 1.0, 1, 1, {"a": 1}, {"a": 1})
    (window,) = activity.windows
    pairs = window.pairs
    assert (pairs.pairs, pairs.differing, pairs.canary_failed) == (2, 1.0, 1)
    assert (pairs.stable_latencies.longer_than(0.1), pairs.canary_latencies.longer_than(0.1)) == (0, 1)
    assert window == Window("a", window.index, pairs=pairs)


def test_pairs_of_answers_are_those_since_the_last_look(plane: Plane) -> None:
    tally = plane.worker("a").tally
    pair = AnswerPairs(1, {"empty": FaultyAnswers(1, canary=1)}, greedy=1, losses=Losses.of(0.5))
    tally.compared_answers(pair, is_worse=True, failed=False)
    plane.after()
    tally.compared_answers(pair, is_worse=True, failed=True)
    tally.compared_answers(AnswerPairs(1), is_worse=False, failed=False)
    activity = plane.after()[V1]
    assert activity.mirrored == MirroredCalls(2, 1.0, 1)
    assert activity.pairs == replace(pair, pairs=2)


def test_the_times_of_tokens_are_those_of_callers_since_the_last_look(plane: Plane) -> None:
    tally = plane.worker("a").tally

    def generate(role: str, first: float, *gaps: float) -> None:
        tokens = Tokens(output=1 + len(gaps))
        tokens.first.observe(first)
        for gap in gaps:
            tokens.between.observe(gap)
        tally.generated(role, tokens)
        if role != MIRRORED:
            tally.judged(b"", 200, first + sum(gaps), tokens=tokens)

    generate("stable", 9.0, 9.0)
    plane.after()
    generate("stable", 0.2, *(0.011, 0.027, 0.022))
    generate("", 0.02)
    generate(MIRRORED, 9.0, 9.0)
    side = plane.after()[V1].side
    assert side.first_tokens.total == 2
    assert side.first_tokens.longer_than(0.1) == 1
    assert side.token_times.total == 1, "one for each call that has further tokens"
    assert 0.015 < side.token_times.quantile(0.5) <= 0.025


def test_counts_of_a_caller_that_shrink_are_not_taken(plane: Plane) -> None:
    worker = plane.worker("a")
    worker.call({200: 5}, sticky=b"7")
    assert plane.after()[V1].callers["7"].calls == 5
    plane.now += 1
    announcement = worker.announcement()
    shrunk = (StickyCaller(b"7", 1, 2, 0, 0.0),)
    plane.collection.hear(replace(announcement, evidence=replace(announcement.evidence, callers=shrunk)))
    plane.now += 5
    assert plane.look()[V1].callers == {}
