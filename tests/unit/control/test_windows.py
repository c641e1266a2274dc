"""What versions did between two looks."""

from __future__ import annotations

from gateway.contract import Announcement, WorkerState
from gateway.control.rollouts.windows import NO_ACTIVITY, Windows
from gateway.metrics.counts import MirroredCalls
from gateway.metrics.tally import Tally


def announcement(
    name: str, app: str, answers: dict[int, int], state: WorkerState = WorkerState.READY
) -> Announcement:
    tally = Tally()
    for status, count in answers.items():
        for _ in range(count):
            tally.answered("canary", status, request=0.002, queue=0.0, compute=0.001)
    return Announcement(name, app, state, numbers=tally.numbers())


def test_the_first_look_at_a_worker_sees_nothing() -> None:
    windows = Windows()
    assert windows.look([announcement("a", "v1", {200: 5})]) == {"v1": NO_ACTIVITY}
    workers = [announcement("a", "v1", {200: 8, 500: 2}), announcement("b", "v1", {200: 1})]
    side = windows.look(workers)["v1"].side
    assert (side.calls, side.errors, side.timed) == (5, 2, 5)
    workers = [announcement("b", "v1", {200: 4, 400: 1}), announcement("c", "v2", {})]
    side = windows.look(workers)["v1"].side
    assert (side.calls, side.errors) == (4, 0), "what callers did wrong is not the model's error"


def test_mirrored_calls_are_those_since_the_last_look() -> None:
    tally, windows = Tally(), Windows()
    tally.compared(0.5, False, {"a": 1}, {"b": 1})
    windows.look([Announcement("a", "v1", WorkerState.READY, numbers=tally.numbers())])
    tally.compared(1.0, False, {"a": 1}, {"a": 1})
    tally.compared(0.0, True, {}, {})
    tally.not_mirrored()
    activity = windows.look([Announcement("a", "v1", WorkerState.READY, numbers=tally.numbers())])["v1"]
    assert activity.mirrored == MirroredCalls(2, 1.0, 1, 1, {"a": 1}, {"a": 1})
