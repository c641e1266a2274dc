from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.contract import MAX_REST_SECONDS, Announcement, AppName, WorkerState
from gateway.control.state.workers import SILENCE_SECONDS, Workers
from gateway.metrics.tally import Numbers
from tests.support.clock import Clock

APP, OTHER = AppName("iris.1"), AppName("other.1")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def workers(clock: Clock) -> Workers:
    return Workers(clock)


def news(
    worker: str = "w1", state: WorkerState = WorkerState.READY, app: AppName = APP, pulled: int = 0
) -> Announcement:
    port = 7000 if state in (WorkerState.READY, WorkerState.DRAINING) else 0
    return Announcement(
        worker, app, state, "", "10.0.0.1", port, "onnx", ongoing=2, numbers=Numbers(pulled_bytes=pulled)
    )


def who(reports: tuple[Announcement, ...]) -> list[str]:
    return [report.worker for report in reports]


def pulled(workers: Workers, app: AppName = APP) -> int:
    return workers.numbers()[app].numbers.pulled_bytes


def test_only_a_new_worker_or_state_is_a_change(workers: Workers) -> None:
    assert workers.hear(news(state=WorkerState.PULLING))
    assert not workers.hear(replace(news(state=WorkerState.PULLING), detail="1/2 bytes"))
    assert workers.hear(news())
    assert not workers.hear(news())
    assert workers.hear(news("w2"))


def test_a_report_that_comes_out_of_turn_changes_nothing(workers: Workers) -> None:
    assert workers.hear(replace(news(), number=2))
    assert not workers.hear(replace(news(state=WorkerState.LOADING), number=1))
    assert who(tuple(workers.ready(APP))) == ["w1"]
    workers.drop("w1")
    assert not workers.hear(replace(news(), number=1))
    assert workers.present() == ()
    assert workers.hear(replace(news(), number=3)), "it was only silent"


def test_the_last_report_counts(workers: Workers) -> None:
    workers.hear(news(state=WorkerState.LOADING))
    workers.hear(news())
    (report,) = workers.present()
    assert report.state is WorkerState.READY


@pytest.mark.parametrize(
    ("silent", "here"), [(0.0, True), (SILENCE_SECONDS, True), (SILENCE_SECONDS + 0.1, False)]
)
def test_a_worker_that_is_silent_for_long_is_gone(
    workers: Workers, clock: Clock, silent: float, here: bool
) -> None:
    workers.hear(news())
    clock.now += silent
    assert who(workers.present()) == (["w1"] if here else [])


@pytest.mark.parametrize(
    ("state", "silent", "late"),
    [
        (WorkerState.READY, 2.4, False),
        (WorkerState.READY, 2.6, True),
        (WorkerState.DRAINING, 2.6, True),
        (WorkerState.LOADING, 2.6, False),
    ],
)
def test_callable_workers_are_late_before_they_are_gone(
    workers: Workers, clock: Clock, state: WorkerState, silent: float, late: bool
) -> None:
    workers.hear(news(state=state))
    clock.now += silent
    assert who(workers.late()) == (["w1"] if late else [])
    assert workers.present()


def test_the_silence_of_a_worker_that_rests_counts_from_the_end_of_its_rest(
    workers: Workers, clock: Clock
) -> None:
    workers.hear(replace(news(), rest_seconds=MAX_REST_SECONDS))
    clock.now += MAX_REST_SECONDS + 2.4
    assert workers.late() == ()
    clock.now += 0.2
    assert who(workers.late()) == ["w1"]
    clock.now += SILENCE_SECONDS - 2.6
    assert who(workers.present()) == ["w1"]
    clock.now += 0.1
    assert workers.present() == ()


def test_a_dropped_worker_is_gone_at_once_and_may_be_dropped_twice(workers: Workers) -> None:
    workers.hear(news())
    workers.hear(news("w2"))
    workers.drop("w1")
    workers.drop("w1")
    assert who(workers.present()) == ["w2"]


def test_the_workers_of_an_app_that_can_be_called_are_told(workers: Workers) -> None:
    for name, state in (("w1", WorkerState.READY), ("w2", WorkerState.LOADING), ("w3", WorkerState.DRAINING)):
        workers.hear(news(name, state))
    workers.hear(news("w4", app=OTHER))
    assert [report.worker for report in workers.ready(APP)] == ["w1"]


def test_an_app_without_workers_goes_on_under_its_runtime(workers: Workers) -> None:
    workers.hear(news())
    workers.drop("w1")
    found = workers.numbers()[APP]
    assert (found.runtime, found.replicas) == ("onnx", {})


def test_a_failure_is_given_out_once(workers: Workers) -> None:
    failed = replace(news("w2", WorkerState.FAILED), detail="it is a pickle")
    workers.hear(news())
    workers.hear(failed)
    assert workers.take_failed() == (failed,)
    assert workers.take_failed() == ()
    assert who(workers.present()) == ["w1"]


def test_a_worker_that_leaves_with_a_reason_was_not_told_to(workers: Workers) -> None:
    workers.hear(news("told", WorkerState.DRAINING))
    workers.hear(replace(news("stuck", WorkerState.DRAINING, OTHER), detail="cannot be ended"))
    workers.drop("told")
    workers.drop("stuck")
    restarts = {app: numbers.restarts for app, numbers in workers.numbers().items()}
    assert restarts == {APP: 0, OTHER: 1}


def test_numbers_are_added_up_by_app(workers: Workers) -> None:
    workers.hear(news("w1", pulled=1))
    workers.hear(news("w2", pulled=2))
    workers.hear(replace(news("w3", WorkerState.LOADING, pulled=4), runtime=""))
    workers.hear(news("w4", app=OTHER, pulled=8))
    found = workers.numbers()
    assert set(found) == {APP, OTHER}
    assert pulled(workers) == 7
    assert found[APP].ongoing == 6
    assert found[APP].replicas == {"ready": 2, "loading": 1}
    assert found[APP].runtime == "onnx"
    assert pulled(workers, OTHER) == 8


def test_what_a_worker_counted_stays_when_it_is_gone(workers: Workers, clock: Clock) -> None:
    workers.hear(news("dropped", pulled=1))
    workers.hear(news("failed", WorkerState.FAILED, pulled=2))
    workers.hear(news("silent", pulled=4))
    workers.drop("dropped")
    workers.take_failed()
    clock.now += SILENCE_SECONDS + 1
    workers.hear(news("here", pulled=8))
    workers.present()
    assert pulled(workers) == 15
    assert workers.numbers()[APP].replicas == {"ready": 1}
    assert workers.numbers()[APP].ongoing == 2


def test_a_worker_that_was_only_silent_is_not_counted_twice(workers: Workers, clock: Clock) -> None:
    workers.hear(news(pulled=5))
    clock.now += SILENCE_SECONDS + 1
    assert workers.present() == ()
    assert pulled(workers) == 5
    assert workers.hear(news(pulled=6))
    assert who(workers.present()) == ["w1"]
    assert pulled(workers) == 6


def test_nothing_is_lost_of_very_many_workers(workers: Workers) -> None:
    for number in range(1000):
        workers.hear(news(f"w{number}", pulled=1))
        workers.drop(f"w{number}")
    assert pulled(workers) == 1000
