"""The thread that owns the model: calls come from event loops, and their answers go back there.

All work on a call that costs CPU (decoding, inference, encoding) is done here, so an event loop only
moves bytes, save for calls that are quicker than to be handed over, see `pace`. The thread takes every call
that waits in one go and hands the answers back together: at high rates a hand-over costs less than a call.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from queue import Empty, SimpleQueue

import numpy as np

from gateway.engine.batching import Batcher, NotRowWise, item_of, obstacle
from gateway.engine.execution import Execution, limit_wait
from gateway.engine.jobs import Job, JobQueue
from gateway.engine.limits import DEFAULT_LIMITS, Batching, QueueLimits
from gateway.engine.pace import Pace
from gateway.errors import QueueFull
from gateway.metrics.tally import Tally
from runtimes.base import TensorModel

# Answers are handed back at the latest after this long, even while more calls wait.
_HAND_BACK_SECONDS = 0.0005
_LONGEST_RETRY_SECONDS = 30
_NO_NAMES: Mapping[str, str] = {}

log = logging.getLogger(__name__)


class ComputeThread:
    """Answers jobs with one model: one by one, or in batches. `names` are what the log calls the version.

    `batching` is None where the model has no batch axis. `not_batched` is why calls are answered one by one
    though batching was asked for, "" where they are not.
    """

    def __init__(
        self,
        model: TensorModel,
        tally: Tally,
        limits: QueueLimits = DEFAULT_LIMITS,
        names: Mapping[str, str] = _NO_NAMES,
        batching: Batching | None = None,
    ) -> None:
        self._tally = tally
        self._names = names
        self._waiting = JobQueue(limits, self._give_up)
        self.not_batched = ""
        if batching is not None and (reason := obstacle(model.signature)):
            self._stop_batching(reason)
            batching = None
        self.batching = batching
        self._execution = Execution(model, tally, names, counts_runs=batching is not None)
        self._batcher = None if batching is None else Batcher(batching)
        self._pace = Pace()
        self._model_is_free = threading.Lock()
        # In the order of their arrival; one that has left the queue is passed over when its turn comes.
        self._submitted: SimpleQueue[Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="compute", daemon=True)
        self._thread.start()

    @property
    def queued(self) -> int:
        """How many calls wait for the model."""
        return len(self._waiting)

    def submit(self, job: Job, followed: bool = False) -> None:
        """Give a call to the model; where too many wait, it is answered with 503 at once.

        Call it on the job's loop. One that is `followed` by others is not answered there: all of them, one
        after the other, would hold it up.
        """
        job.owner = self
        alone = not followed and not self._tally.ongoing
        self._tally.ongoing += 1
        if alone and self._batcher is None and self._run_on_loop(job):
            self._answer([job])
        elif self._waiting.enter(job):
            self._submitted.put(job)
        else:
            self._refuse(job)

    def cancel(self, job: Job) -> None:
        """Take a call back, see `Job.cancel`."""
        if self._waiting.claim(job):
            job.body = ()  # the thread passes over the job only when its turn comes
        job.owner = None
        job.cancelled = True
        self._tally.ongoing -= 1
        self._tally.dropped("cancelled")

    def is_alive(self) -> bool:
        """Whether the thread still takes calls."""
        return self._thread.is_alive()

    def stop(self, seconds: float = 5.0) -> None:
        """Finish the calls that wait, then end the thread."""
        self._submitted.put(None)
        self._thread.join(seconds)

    def _run_on_loop(self, job: Job) -> bool:
        """Answer a job here and now, if that takes no longer than to hand it over; False when it may."""
        size = len(job.body[0]) if len(job.body) == 1 else sum(map(len, job.body))
        if not self._pace.is_quick(size) or not self._model_is_free.acquire(blocking=False):
            return False
        try:
            began = job.arrived = time.perf_counter()
            job.deadline = job.began + job.timeout
            with np.errstate(over="ignore"):
                self._pace.note(self._execution.alone(job) - began)
        finally:
            self._model_is_free.release()
        return True

    def _refuse(self, job: Job) -> None:
        # The queue takes about as long as its oldest has waited.
        job.retry_after = min(max(1, math.ceil(self._waiting.age(job.arrived))), _LONGEST_RETRY_SECONDS)
        self._tally.dropped("rejected")
        found = f"{len(self._waiting)} calls, {self._waiting.bytes} bytes"
        self._execution.fail(job, QueueFull(f"too many calls wait for the model: {found}; ask again later"))
        self._answer([job])

    def _give_up(self, late: list[Job]) -> None:
        now = time.perf_counter()
        for job in late:
            self._execution.expire(job, now)
        self._hand_back(late)

    def _stop_batching(self, reason: str) -> None:
        self.not_batched = reason
        log.warning("batching.off", extra={"reason": reason, **self._names})

    def _run(self) -> None:
        # A number too large for FP32 becomes infinite, as in every other server; set once, not for each call.
        with np.errstate(over="ignore"):
            if self._batcher is None or self._work_in_batches(self._batcher):
                self._work_one_by_one()

    def _work_one_by_one(self) -> None:
        while (job := self._submitted.get()) is not None:
            done: list[Job] = []
            handed_back = time.perf_counter()
            more: Job | None = job
            while more is not None:
                if self._waiting.claim(more):
                    with self._model_is_free:
                        began = time.perf_counter()
                        now = self._execution.alone(more)
                        self._pace.note(now - began)
                    done.append(more)
                    if now - handed_back > _HAND_BACK_SECONDS:
                        self._hand_back(done)
                        done, handed_back = [], now
                try:
                    more = self._submitted.get_nowait()
                except Empty:
                    break
            self._hand_back(done)
            if more is None:
                return

    def _work_in_batches(self, batcher: Batcher) -> bool:
        """Answer jobs until the end; True when the model proves to be none to batch before that."""
        ending = False
        while not ending or batcher:
            done: list[Job] = []
            if not ending:
                ending = self._gather(batcher, done)
            self._work_batch(batcher, done)
            if done:
                self._hand_back(done)
            if self.not_batched and not batcher:
                return not ending
        return False

    def _gather(self, batcher: Batcher, done: list[Job]) -> bool:
        """Take jobs until the next batch is to be run; returns whether there will be no more."""
        while not batcher.is_full:
            try:
                job = self._submitted.get_nowait() if batcher else self._next(done)
            except Empty:
                pause = batcher.pause(time.perf_counter())
                if pause <= 0:
                    break
                try:
                    job = self._next(done, pause)
                except Empty:
                    break
            if job is None:
                return True
            if batcher.is_idle and self._submitted.empty():
                self._run_at_once(batcher, job)
            elif job in self._waiting and not self._admit(batcher, job):
                done.append(job)
        return False

    def _run_at_once(self, batcher: Batcher, job: Job) -> None:
        """Answer a job that has no company, and expects none."""
        if self._waiting.claim(job):
            self._execution.alone(job)
            batcher.passed(job.arrived, self._submitted.qsize(), job.infer)
            # Last: the event loop needs the interpreter at once, and gets it when this thread waits again.
            self._hand_back([job])

    def _next(self, done: list[Job], seconds: float | None = None) -> Job | None:
        """Wait for a job, with nothing that is done in hand. Raises Empty."""
        if done:
            self._hand_back(done)
            done.clear()
        return self._submitted.get(timeout=seconds)

    def _admit(self, batcher: Batcher, job: Job) -> bool:
        """Have a job wait for its batch; False when it is answered now, with an error."""
        started = time.perf_counter()
        try:
            call = job.codec.decode(job)
        except Exception as failure:
            if not self._waiting.claim(job):
                return True
            self._execution.fail(job, failure)
            job.queue, job.decode = started - job.arrived, time.perf_counter() - started
            return False
        job.decode = time.perf_counter() - started
        if call.timeout_us:
            limit_wait(job, call.timeout_us)
        batcher.add(item_of(job, call))
        return True

    def _work_batch(self, batcher: Batcher, done: list[Job]) -> None:
        """Run the next batch, if there is one, and add its jobs to those that are done."""
        items = batcher.take()
        jobs = [item.job for item in items]
        mine = self._waiting.claim_all(jobs)
        done.extend(mine)
        now = time.perf_counter()
        if len(mine) < len(jobs) or any(job.deadline < now for job in mine):
            late = {job for job in mine if job.deadline < now}
            for job in late:
                self._execution.expire(job, now)
            in_time = set(mine) - late
            items = [item for item in items if item.job in in_time]
        if not items:
            return
        try:
            self._execution.batch(items)
        except NotRowWise as error:
            self._stop_batching(str(error))
            batcher.give_up()
        batcher.ran(len(items), len(batcher) + self._submitted.qsize(), items[0].job.infer)

    def _hand_back(self, jobs: list[Job]) -> None:
        loops = {job.loop for job in jobs}
        for loop in loops:
            own = list(jobs) if len(loops) == 1 else [job for job in jobs if job.loop is loop]
            # A loop may close at any time, and takes nothing then.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._answer, own)

    def _answer(self, jobs: list[Job]) -> None:
        for job in jobs:
            if job.cancelled:
                continue
            job.owner = None
            try:
                job.done(job)
            except Exception:
                log.exception("answer.failed", extra={"request_id": job.request_id, **self._names})
            job.body = ()  # an idle thread keeps hold of its last job
            self._tally.ongoing -= 1
            if job.decode:
                self._tally.answered(
                    job.role,
                    job.status,
                    request=time.perf_counter() - job.began,
                    queue=job.queue,
                    compute=job.decode + job.infer + job.encode,
                    infer=job.infer,
                    encode=job.encode,
                )
            else:
                self._tally.refused(job.role, job.status)
