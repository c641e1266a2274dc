"""What versions did between two looks."""

from __future__ import annotations

from gateway.contract import Announcement, WorkerState
from gateway.control.rollouts.windows import NO_ACTIVITY, Windows
from gateway.metrics.counts import MirroredCalls
from gateway.metrics.tally import Tally


def news(
    name: str, app: str, answers: dict[int, int], state: WorkerState = WorkerState.READY
) -> Announcement:
    tally = Tally()
    for status, count in answers.items():
        for _ in range(count):
            tally.answered("canary", status, request=0.002, queue=0.0, compute=0.001)
    return Announcement(name, app, state, numbers=tally.numbers())


def test_the_first_look_at_a_worker_sees_nothing() -> None:
    windows = Windows()
    assert windows.look([news("a", "v1", {200: 5})]) == {"v1": NO_ACTIVITY}
    seen = windows.look([news("a", "v1", {200: 8, 500: 2}), news("b", "v1", {200: 1})])["v1"].side
    assert (seen.calls, seen.errors, seen.timed) == (5, 2, 5)
    seen = windows.look([news("b", "v1", {200: 4, 400: 1}), news("c", "v2", {})])["v1"].side
    assert (seen.calls, seen.errors) == (4, 0), "what callers did wrong is not the model's error"


def test_mirrored_calls_are_those_since_the_last_look() -> None:
    tally, windows = Tally(), Windows()
    tally.compared(0.5, False, {"a": 1}, {"b": 1})
    windows.look([Announcement("a", "v1", WorkerState.READY, numbers=tally.numbers())])
    tally.compared(1.0, False, {"a": 1}, {"a": 1})
    tally.compared(0.0, True, {}, {})
    tally.not_mirrored()
    seen = windows.look([Announcement("a", "v1", WorkerState.READY, numbers=tally.numbers())])["v1"]
    assert seen.mirrored == MirroredCalls(2, 1.0, 1, 1, {"a": 1}, {"a": 1})
