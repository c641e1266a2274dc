"""The thread that runs the model: calls come from event loops, and their answers go back there.

All work on a call that costs CPU (decoding, inference, encoding) is done in this thread, so that an event
loop only moves bytes; calls that take less than to hand them over are the exception, see `pace`. The thread
takes all calls that wait in one go, and hands their answers back together, which is cheaper at high rates.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextvars import copy_context
from queue import Empty

import numpy as np

from gateway.engine.batch_work import BatchWork, tell_not_batched
from gateway.engine.batching import obstacle
from gateway.engine.jobs import Job
from gateway.engine.overruns import Overruns
from gateway.engine.running_bodies import RunningBodies
from gateway.engine.work import Work
from gateway.metrics.tally import Tally
from gateway.serving import DEFAULT_LIMITS, Batching, QueueLimits
from runtimes.base import TensorModel

# Answers are handed back at the latest after this long, even while more calls wait.
_HAND_BACK_SECONDS = 0.0005
_NO_NAMES: Mapping[str, str] = {}


class ComputeThread:
    """Answers jobs with one model, one by one or in batches.

    A job is in one of these states, in a `Work`:

        waiting     counted and timed in `waiting`, and in `submitted` in the order of arrival
        claimed     taken out of `waiting`: whoever did so answers it
        answered    `done` was called on its loop
        cancelled   its caller hung up: `done` is never called

    What happens, on which thread, and what becomes of the job:

        it is submitted, the model is quick and free    loop      answered at once
        it is submitted                                 loop      waiting
        it is submitted, too many wait                  loop      answered with 503
        its time is over                                loop      claimed, answered with 504
        its turn comes                                  compute   claimed, run, handed back to its loop
        its caller hangs up                             loop      cancelled; claimed if it still waited
        it computes for too long, and can be ended      compute   answered with 504
        it computes for too long, and cannot be ended   any       answered with 504; who waits, with 503

    The rules:

    1. A job is claimed once, and answered by whoever claimed it. In `submitted` it stays until its turn
       comes, and is passed over then if it was claimed before.
    2. One thread at a time runs the model: it holds `model_is_free`. The loop never waits for the model, it
       only takes it when it is free.
    3. The loop runs a job itself only if no other is inside, none follows, `Pace` expects it to be quick,
       and no batch is expected.
    4. Jobs that are done are handed back together, but none is kept longer than `_HAND_BACK_SECONDS`.
    5. `tally.ongoing` goes up in `submit`, and down once for each job: in `Answers.send` or in `cancel`.
    6. A model that proves not to be row-wise is never batched again.
    7. Whoever runs the model says so in `Execution.beat`, which a thread of its own watches, see `Overruns`.

    Args:
        names: what the log calls the version.
        batching: which calls run together; None: each runs alone.
        running: where it is written down what the model works on; None: nowhere.
    """

    def __init__(
        self,
        model: TensorModel,
        tally: Tally,
        limits: QueueLimits = DEFAULT_LIMITS,
        names: Mapping[str, str] = _NO_NAMES,
        batching: Batching | None = None,
        running: RunningBodies | None = None,
    ) -> None:
        self._tally = tally
        self._obstacle = "" if batching is None else obstacle(model.signature)
        if self._obstacle:
            tell_not_batched(self._obstacle, names)
            batching = None
        self.batching = batching
        """None where the model cannot be batched."""
        work = self._work = Work(model, tally, limits, names, running, counts_runs=batching is not None)
        self._batches = None if batching is None else BatchWork(work, batching, names)
        self._overruns = Overruns(work.execution.beat, model, limits.compute_seconds, names)
        # Whoever has the model may enter it. numpy keeps in a context what it tells of, and to set that for
        # each call takes longer than to enter one.
        self._on_loop = copy_context()
        self._on_loop.run(np.seterr, over="ignore")
        self._thread = threading.Thread(target=self._run, name="compute", daemon=True)
        self._thread.start()

    @property
    def not_batched(self) -> str:
        """Why calls are answered one by one although `batching` was given, "" where they are not."""
        return self._obstacle or ("" if self._batches is None else self._batches.not_batched)

    @property
    def inside(self) -> int:
        """How many calls wait for the model or are computed."""
        return len(self._work.waiting) + self._work.model_is_free.locked()

    @property
    def queued(self) -> int:
        """How many calls wait for the model."""
        return len(self._work.waiting)

    def submit(self, job: Job, is_followed: bool = False) -> None:
        """Give a call to the model; where too many wait, it is answered with 503 at once.

        Call it on the job's loop. One that is followed by others is not answered there: all of them, one
        after the other, would hold the loop up.
        """
        job.owner = self
        is_alone = not is_followed and not self._tally.ongoing
        self._tally.ongoing += 1
        if is_alone and self._run_on_loop(job):
            self._work.answers.send([job])
        elif self._work.waiting.enter(job):
            self._work.submitted.put(job)
        elif others := self._work.waiting.displace(job):
            self._work.submitted.put(job)
            for other in others:
                self._work.answers.fail_for_room(other, self._work.waiting)
            self._work.answers.hand_back(others)
        else:
            self._refuse(job)

    def cancel(self, job: Job) -> None:
        """Forget a call whose caller hung up, see `Job.cancel`."""
        if self._work.waiting.claim(job):
            job.body = ()  # the thread passes over the job only when its turn comes
        self._work.answers.cancel(job)

    def is_alive(self) -> bool:
        """Whether the thread still takes calls."""
        return not self._reason and self._thread.is_alive()

    def failure(self) -> str:
        """Return why it takes no more calls, once it does not."""
        return self._reason or "the model's thread has ended"

    @property
    def _reason(self) -> str:
        """Why the model takes no more calls, "" while it does."""
        return self._overruns.failure or ("" if self._work.device is None else self._work.device.failure)

    def give_up(self) -> None:
        """Answer all calls inside with errors, as the model will not; it takes no more. From any thread."""
        beat = self._work.execution.beat
        computed = beat.jobs() if beat.is_overdue else []
        for job in computed:
            self._work.answers.fail_overrun(job)
        waiting = self._work.waiting.close()
        for job in waiting:
            self._work.answers.fail_replaced(job, self.failure())
        if beat.is_on_loop:
            # The loop stands still within the model, so that this is the only thread that does its work.
            self._work.answers.send([*computed, *waiting])
        else:
            self._work.answers.hand_back([*computed, *waiting])

    def stop(self, seconds: float = 5.0) -> None:
        """Finish the calls that wait, then end the thread."""
        self._overruns.stop()
        self._work.submitted.put(None)
        self._thread.join(seconds)

    def _run_on_loop(self, job: Job) -> bool:
        """Answer a job on the loop, if that takes no longer than to hand it over; False where it may."""
        work, batcher = self._work, None if self._batches is None else self._batches.batcher
        if batcher is not None and not batcher.is_idle:
            return False
        size = len(job.body[0]) if len(job.body) == 1 else sum(map(len, job.body))
        if not work.pace.is_quick(size) or not work.model_is_free.acquire(blocking=False):
            return False
        beat = work.execution.beat
        beat.is_on_loop = True
        try:
            began = job.arrived = time.perf_counter()
            job.deadline = job.began + job.timeout
            work.pace.note(self._on_loop.run(work.run_single, job) - began)
            if batcher is not None:
                batcher.note_single(began, 0, job.infer_seconds)
        finally:
            beat.is_on_loop = False
            work.model_is_free.release()
        return True

    def _refuse(self, job: Job) -> None:
        if self._reason:
            self._work.answers.fail_replaced(job, self._reason)
        else:
            self._work.answers.fail_for_room(job, self._work.waiting)
        self._work.answers.send([job])

    def _run(self) -> None:
        # A number that is too large for FP32 becomes infinite; set once, not for each call.
        with np.errstate(over="ignore"):
            if self._batches is None or self._batches.run():
                self._work_one_by_one()

    def _work_one_by_one(self) -> None:
        while (job := self._work.submitted.get()) is not None:
            done: list[Job] = []
            handed_back = time.perf_counter()
            more: Job | None = job
            while more is not None:
                if self._work.waiting.claim(more):
                    with self._work.model_is_free:
                        began = time.perf_counter()
                        now = self._work.run_single(more)
                        self._work.pace.note(now - began)
                    done.append(more)
                    if now - handed_back > _HAND_BACK_SECONDS:
                        self._work.answers.hand_back(done)
                        done, handed_back = [], now
                try:
                    more = self._work.submitted.get_nowait()
                except Empty:
                    break
            self._work.answers.hand_back(done)
            if more is None:
                return
