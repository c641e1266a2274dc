"""A model that runs several calls at once: each lane is a thread with a queue of its own.

On a GPU, one call's tensors travel while another computes. Whether that pays for a model is measured once it
is loaded.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from gateway.engine.jobs import Job
from gateway.engine.thread import ComputeThread
from gateway.serving import Batching
from runtimes.base import Array, ConcurrentModel, TensorModel

PAYS = 1.15
"""So many times as many calls must be answered in the same time, or one lane is used."""
_SECONDS = 0.25
_LEAST_RUNS = 4


class Compute(Protocol):
    """What answers jobs with a model: a `ComputeThread`, or several."""

    @property
    def batching(self) -> Batching | None:
        """Which calls run together; None where each runs alone."""
        ...

    @property
    def not_batched(self) -> str:
        """Why calls are answered one by one although they were to run together, "" where they are not."""
        ...

    @property
    def queued(self) -> int:
        """How many calls wait for the model."""
        ...

    def submit(self, job: Job, is_followed: bool = False) -> None:
        """Give a call to the model, see `ComputeThread.submit`."""
        ...

    def is_alive(self) -> bool:
        """Whether calls are still taken."""
        ...

    def failure(self) -> str:
        """Return why no more calls are taken, once they are not."""
        ...

    def give_up(self) -> None:
        """Answer all calls inside with errors, see `ComputeThread.give_up`."""
        ...

    def stop(self, seconds: float = 5.0) -> None:
        """Finish the calls that wait, then end."""
        ...


class ComputeLanes:
    """Answers jobs by several threads that run one model, each with its share of the queue's limits."""

    def __init__(self, lanes: Sequence[ComputeThread]) -> None:
        self._lanes = lanes
        self.batching = lanes[0].batching
        """None where the model cannot be batched."""

    @property
    def not_batched(self) -> str:
        """Why calls are answered one by one although they were to run together, "" where they are not."""
        return next(filter(None, (lane.not_batched for lane in self._lanes)), "")

    @property
    def queued(self) -> int:
        """How many calls wait for the model."""
        return sum(lane.queued for lane in self._lanes)

    def submit(self, job: Job, is_followed: bool = False) -> None:
        """Give a call to the lane that has the fewest; see `ComputeThread.submit`."""
        min(self._lanes, key=lambda lane: lane.inside).submit(job, is_followed)

    def is_alive(self) -> bool:
        """Whether all lanes still take calls."""
        return all(lane.is_alive() for lane in self._lanes)

    def failure(self) -> str:
        """Return why a lane takes no more calls, once one does not."""
        return next((lane.failure() for lane in self._lanes if not lane.is_alive()), "")

    def give_up(self) -> None:
        """Answer all calls inside with errors, as the worker is replaced; from any thread."""
        for lane in self._lanes:
            lane.give_up()

    def stop(self, seconds: float = 5.0) -> None:
        """Finish the calls that wait, then end the threads."""
        for lane in self._lanes:
            lane.stop(seconds)


def lanes_that_pay(model: TensorModel, inputs: Mapping[str, Array], seconds: float = _SECONDS) -> int:
    """Return how many calls are to run at once, by how many of `inputs` are answered in the same time.

    The model has answered `inputs` before. It is 1 for a model that runs one call at a time, and where a
    call takes so long that nothing can be told.
    """
    if not isinstance(model, ConcurrentModel) or model.runs_at_once < 2:
        return 1
    alone = _calls(model, inputs, 1, seconds)
    if alone < _LEAST_RUNS:
        return 1
    together = _calls(model, inputs, model.runs_at_once, seconds)
    return model.runs_at_once if together > PAYS * alone else 1


def share_of(limit: int, lanes: int) -> int:
    """Return one lane's share of a limit."""
    return max(1, limit // lanes)


def _calls(model: TensorModel, inputs: Mapping[str, Array], threads: int, seconds: float) -> int:
    """Return how many calls are answered; none where one fails."""
    counts = [0] * threads
    failures: list[Exception] = []
    end = time.perf_counter() + seconds

    def work(number: int) -> None:
        try:
            while time.perf_counter() < end:
                model.infer(inputs)
                counts[number] += 1
        except Exception as error:
            failures.append(error)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return 0 if failures else sum(counts)
