"""Tasks beside the loop: one for one subject at a time, and none that fails ends the others."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from gateway.control.loop import tasks as tasks_module
from gateway.control.loop.tasks import Tasks
from tests.support.waiting import wait


class Work:
    """Work that counts how often it is begun, and ends when it is let go."""

    def __init__(self) -> None:
        self.runs = 0
        self.may_end = threading.Event()

    def __call__(self) -> None:
        self.runs += 1
        assert self.may_end.wait(10)


@pytest.fixture
def finished() -> list[None]:
    return []


@pytest.fixture
def tasks(finished: list[None]) -> Iterator[Tasks]:
    tasks = Tasks(2, "test", lambda: finished.append(None))
    yield tasks
    tasks.stop()


def test_one_subject_has_one_task_at_a_time_and_another_has_its_own(
    tasks: Tasks, finished: list[None]
) -> None:
    first, second = Work(), Work()
    for _ in range(3):
        tasks.begin(("deploy", "a"), first)
        tasks.begin(("delete", "a"), second)
    wait(lambda: (first.runs, second.runs) == (1, 1))
    first.may_end.set()
    wait(lambda: len(finished) == 1)
    second.may_end.set()
    wait(lambda: len(finished) == 2)
    assert (first.runs, second.runs) == (1, 1)


def test_a_task_that_ran_a_moment_ago_is_not_begun_again(tasks: Tasks, finished: list[None]) -> None:
    work = Work()
    work.may_end.set()
    for _ in range(2):
        tasks.begin(("deploy", "a"), work)
        wait(lambda: len(finished) == 1)
    assert work.runs == 1


def test_after_the_pause_it_is_begun_again_but_not_while_it_runs(
    tasks: Tasks, finished: list[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks_module, "_RETRY_SECONDS", 0.0)
    work = Work()
    for _ in range(2):
        tasks.begin(("deploy", "a"), work)
    wait(lambda: work.runs == 1)
    work.may_end.set()
    wait(lambda: len(finished) == 1)
    tasks.begin(("deploy", "a"), work)
    wait(lambda: len(finished) == 2)
    assert work.runs == 2


def test_a_task_that_fails_is_logged_with_its_subject_and_is_finished(
    tasks: Tasks, finished: list[None], caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise ValueError("broken")

    tasks.begin(("resolve", "iris:v1", 3), fail)
    wait(lambda: len(finished) == 1)
    (record,) = caplog.records
    assert (record.message, vars(record)["subject"]) == ("task.failed", "resolve iris:v1 3")
