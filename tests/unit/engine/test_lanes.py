"""Several runs at once: whether they pay, and that all calls are answered by whichever lane."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from gateway.engine import lanes
from gateway.engine.jobs import Job
from gateway.engine.lanes import ComputeLanes, lanes_that_pay, share_of
from gateway.engine.thread import ComputeThread
from gateway.metrics.tally import Tally
from runtimes.base import Array
from tests.support.gpu_errors import FailingGpu
from tests.unit.engine.test_thread import Plain, run


class Slow(FailingGpu):
    """Takes a while, in which it may run other calls."""

    runs_at_once = 2

    def __init__(self) -> None:
        super().__init__()
        self._inside = 0
        self.most = 0

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        self._inside += 1
        self.most = max(self.most, self._inside)
        time.sleep(0.005)
        self._inside -= 1
        return {"x": inputs["x"]} if not outputs else super().infer(inputs)


X = {"x": np.array([1])}


def test_lanes_are_used_where_they_answer_more_calls() -> None:
    assert lanes_that_pay(Slow(), X, 0.2) == 2


@pytest.mark.parametrize(("together", "count"), [(116, 2), (114, 1), (0, 1)])
def test_a_little_more_is_not_enough(monkeypatch: pytest.MonkeyPatch, together: int, count: int) -> None:
    monkeypatch.setattr(
        lanes, "_calls", lambda _model, _inputs, threads, _seconds: {1: 100, 2: together}[threads]
    )
    assert lanes_that_pay(Slow(), X) == count


def test_models_that_run_one_call_at_a_time_are_not_measured() -> None:
    model = FailingGpu()
    assert lanes_that_pay(model, X) == 1
    assert not model.runs


def test_calls_that_fail_or_take_long_tell_nothing() -> None:
    assert lanes_that_pay(Slow(), {}, 0.1) == 1
    assert lanes_that_pay(Slow(), X, 0.01) == 1


def test_calls_are_answered_by_both_lanes() -> None:
    model, tally = Slow(), Tally()
    both = ComputeLanes([ComputeThread(model, tally) for _ in range(2)])

    async def main() -> list[Job]:
        loop = asyncio.get_running_loop()

        def submit(number: int) -> asyncio.Future[Job]:
            answered: asyncio.Future[Job] = loop.create_future()
            both.submit(Job([b"%d" % number], Plain(), loop, answered.set_result), is_followed=True)
            return answered

        return await asyncio.gather(*(submit(number) for number in range(40)))

    jobs = run(main())
    assert [job.answer for job in jobs] == [b"answer to %d" % number for number in range(40)]
    assert model.most == 2
    assert (both.queued, tally.ongoing) == (0, 0)
    assert both.is_alive()
    assert both.not_batched == ""
    both.stop()
    assert not both.is_alive()
    assert both.failure() == "the model's thread has ended"


def test_a_lane_that_fails_ends_all() -> None:
    model, tally = FailingGpu(), Tally()
    both = ComputeLanes([ComputeThread(model, tally) for _ in range(2)])

    async def main() -> None:
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Job] = loop.create_future()
        both.submit(Job([b"101"], Plain(), loop, answered.set_result))
        assert b"500: the GPU is lost" in (await answered).answer

    run(main())
    assert not both.is_alive()
    assert "the GPU is lost" in both.failure()
    both.give_up()
    both.stop()


def test_each_lane_has_its_share_of_the_limits() -> None:
    assert [share_of(limit, 2) for limit in (100, 1, 3)] == [50, 1, 1]
