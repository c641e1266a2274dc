"""A model and the calls for it, as an event loop and the model's thread share them."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from gateway.engine.answers import Answers
from gateway.engine.device import DeviceHealth
from gateway.engine.execution import Execution
from gateway.engine.jobs import Job, JobQueue
from gateway.engine.pace import Pace
from gateway.engine.running_bodies import RunningBodies
from gateway.engine.running_jobs import RunningJobs
from gateway.engine.shares import Rounds
from gateway.errors import RefusedBody
from gateway.metrics.tally import Tally
from gateway.serving import QueueLimits
from runtimes.base import TensorModel


class Work:
    """One model, and its calls on their way; see `ComputeThread` for the rules.

    Args:
        names: what the log calls the version.
        running: where it is written down what the model works on; None: nowhere.
        counts_runs: whether runs are counted by their rows.
    """

    def __init__(
        self,
        model: TensorModel,
        tally: Tally,
        limits: QueueLimits,
        names: Mapping[str, str],
        running: RunningBodies | None,
        counts_runs: bool,
    ) -> None:
        self.device = None if model.device == "cpu" else DeviceHealth()
        """What its runs say of its GPU; None where it computes on the CPU."""
        self.running = RunningJobs(model, running, self.device)
        self.waiting = JobQueue(limits, self._expire)
        self.submitted: Rounds[Job] = Rounds()
        """The jobs that wait, or waited, in the order in which their turn comes."""
        self.answers = Answers(tally, names)
        self.execution = Execution(
            model, tally, self.answers, names, counts_runs=counts_runs, device=self.device
        )
        self.pace = Pace()
        self.model_is_free = threading.Lock()

    def run_single(self, job: Job) -> float:
        """Answer one call, which is written down meanwhile; returns the time at the end."""
        try:
            self.running.begin(job)
        except RefusedBody as refusal:
            self.answers.fail_deadly(job, refusal)
            return time.perf_counter()
        finished = self.execution.run_single(job)
        self.running.end(job)
        return finished

    def _expire(self, late: list[Job]) -> None:
        now = time.perf_counter()
        for job in late:
            self.answers.expire(job, now)
        self.answers.hand_back(late)
