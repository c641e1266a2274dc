"""The thread that runs the model: calls come from event loops, and their answers go back there.

All work on a call that costs CPU (decoding, inference, encoding) is done in this thread, so that an event
loop only moves bytes; calls that take less than to hand them over are the exception, see `pace`. The thread
takes all calls that wait in one go, and hands their answers back together, which is cheaper at high rates.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from contextvars import copy_context
from queue import Empty

import numpy as np

from gateway.engine.answers import Answers
from gateway.engine.batching import Batcher, Item, NotRowWise, item_of, obstacle
from gateway.engine.device import DeviceHealth
from gateway.engine.execution import Execution, limit_wait
from gateway.engine.jobs import Job, JobQueue
from gateway.engine.overruns import Overruns
from gateway.engine.pace import Pace
from gateway.engine.running_bodies import RunningBodies
from gateway.engine.running_jobs import RunningJobs
from gateway.engine.shares import Rounds
from gateway.errors import RefusedBody
from gateway.metrics.tally import Tally
from gateway.serving import DEFAULT_LIMITS, Batching, QueueLimits
from runtimes.base import TensorModel

# Answers are handed back at the latest after this long, even while more calls wait.
_HAND_BACK_SECONDS = 0.0005
_NO_NAMES: Mapping[str, str] = {}

log = logging.getLogger(__name__)


class ComputeThread:
    """Answers jobs with one model, one by one or in batches.

    A job is in one of these states:

        waiting     counted and timed in `_waiting`, and in `_submitted` in the order of arrival
        claimed     taken out of `_waiting`: whoever did so answers it
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

    1. A job is claimed once, and answered by whoever claimed it. In `_submitted` it stays until its turn
       comes, and is passed over then if it was claimed before.
    2. One thread at a time runs the model: it holds `_model_is_free`. The loop never waits for the model, it
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
        self._device = None if model.device == "cpu" else DeviceHealth()
        self._running = RunningJobs(model, running, self._device)
        self._names = names
        self._waiting = JobQueue(limits, self._expire)
        self.not_batched = ""
        """Why calls are answered one by one although `batching` was given, "" where they are not."""
        if batching is not None and (reason := obstacle(model.signature)):
            self._stop_batching(reason)
            batching = None
        self.batching = batching
        """None where the model cannot be batched."""
        self._answers = Answers(tally, names)
        self._execution = Execution(
            model, tally, self._answers, names, counts_runs=batching is not None, device=self._device
        )
        self._overruns = Overruns(self._execution.beat, model, limits.compute_seconds, names)
        self._batcher = None if batching is None else Batcher(batching)
        self._pace = Pace()
        self._model_is_free = threading.Lock()
        # Whoever has the model may enter it. numpy keeps in a context what it tells of, and to set that for
        # each call takes longer than to enter one.
        self._on_loop = copy_context()
        self._on_loop.run(np.seterr, over="ignore")
        self._submitted: Rounds[Job] = Rounds()
        self._thread = threading.Thread(target=self._run, name="compute", daemon=True)
        self._thread.start()

    @property
    def inside(self) -> int:
        """How many calls wait for the model or are computed."""
        return len(self._waiting) + self._model_is_free.locked()

    @property
    def queued(self) -> int:
        """How many calls wait for the model."""
        return len(self._waiting)

    def submit(self, job: Job, is_followed: bool = False) -> None:
        """Give a call to the model; where too many wait, it is answered with 503 at once.

        Call it on the job's loop. One that is followed by others is not answered there: all of them, one
        after the other, would hold the loop up.
        """
        job.owner = self
        is_alone = not is_followed and not self._tally.ongoing
        self._tally.ongoing += 1
        if is_alone and self._run_on_loop(job):
            self._answers.send([job])
        elif self._waiting.enter(job):
            self._submitted.put(job)
        elif others := self._waiting.displace(job):
            self._submitted.put(job)
            for other in others:
                self._answers.fail_for_room(other, self._waiting)
            self._answers.hand_back(others)
        else:
            self._refuse(job)

    def cancel(self, job: Job) -> None:
        """Forget a call whose caller hung up, see `Job.cancel`."""
        if self._waiting.claim(job):
            job.body = ()  # the thread passes over the job only when its turn comes
        self._answers.cancel(job)

    def is_alive(self) -> bool:
        """Whether the thread still takes calls."""
        return not self._reason and self._thread.is_alive()

    def failure(self) -> str:
        """Return why it takes no more calls, once it does not."""
        return self._reason or "the model's thread has ended"

    @property
    def _reason(self) -> str:
        """Why the model takes no more calls, "" while it does."""
        return self._overruns.failure or ("" if self._device is None else self._device.failure)

    def give_up(self) -> None:
        """Answer all calls inside with errors, as the model will not; it takes no more. From any thread."""
        beat = self._execution.beat
        computed = beat.jobs() if beat.is_overdue else []
        for job in computed:
            self._answers.fail_overrun(job)
        waiting = self._waiting.close()
        for job in waiting:
            self._answers.fail_replaced(job, self.failure())
        if beat.is_on_loop:
            # The loop stands still within the model, so that this is the only thread that does its work.
            self._answers.send([*computed, *waiting])
        else:
            self._answers.hand_back([*computed, *waiting])

    def stop(self, seconds: float = 5.0) -> None:
        """Finish the calls that wait, then end the thread."""
        self._overruns.stop()
        self._submitted.put(None)
        self._thread.join(seconds)

    def _run_on_loop(self, job: Job) -> bool:
        """Answer a job on the loop, if that takes no longer than to hand it over; False where it may."""
        batcher = self._batcher
        if batcher is not None and not batcher.is_idle:
            return False
        size = len(job.body[0]) if len(job.body) == 1 else sum(map(len, job.body))
        if not self._pace.is_quick(size) or not self._model_is_free.acquire(blocking=False):
            return False
        beat = self._execution.beat
        beat.is_on_loop = True
        try:
            began = job.arrived = time.perf_counter()
            job.deadline = job.began + job.timeout
            self._pace.note(self._on_loop.run(self._run_single, job) - began)
            if batcher is not None:
                batcher.note_single(began, 0, job.infer_seconds)
        finally:
            beat.is_on_loop = False
            self._model_is_free.release()
        return True

    def _run_single(self, job: Job) -> float:
        """Answer one call, which is written down meanwhile; returns the time at the end."""
        try:
            self._running.begin(job)
        except RefusedBody as refusal:
            self._answers.fail_deadly(job, refusal)
            return time.perf_counter()
        finished = self._execution.run_single(job)
        self._running.end(job)
        return finished

    def _refuse(self, job: Job) -> None:
        if self._reason:
            self._answers.fail_replaced(job, self._reason)
        else:
            self._answers.fail_for_room(job, self._waiting)
        self._answers.send([job])

    def _expire(self, late: list[Job]) -> None:
        now = time.perf_counter()
        for job in late:
            self._answers.expire(job, now)
        self._answers.hand_back(late)

    def _stop_batching(self, reason: str) -> None:
        self.not_batched = reason
        log.warning("batching.off", extra={"reason": reason, **self._names})

    def _run(self) -> None:
        # A number that is too large for FP32 becomes infinite; set once, not for each call.
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
                        now = self._run_single(more)
                        self._pace.note(now - began)
                    done.append(more)
                    if now - handed_back > _HAND_BACK_SECONDS:
                        self._answers.hand_back(done)
                        done, handed_back = [], now
                try:
                    more = self._submitted.get_nowait()
                except Empty:
                    break
            self._answers.hand_back(done)
            if more is None:
                return

    def _work_in_batches(self, batcher: Batcher) -> bool:
        """Answer jobs until the end; True when the model proves before that not to be row-wise."""
        ending = False
        while not ending or batcher:
            done: list[Job] = []
            if not ending:
                ending = self._gather(batcher, done)
            self._work_batch(batcher, done)
            if done:
                self._answers.hand_back(done)
            if self.not_batched and not batcher:
                return not ending
        return False

    def _gather(self, batcher: Batcher, done: list[Job]) -> bool:
        """Take jobs until the next batch is to be run; returns whether no more will come."""
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
        """Answer a job when no other waits and no more are expected."""
        if self._waiting.claim(job):
            with self._model_is_free:
                began = time.perf_counter()
                self._pace.note(self._run_single(job) - began)
            batcher.note_single(job.arrived, self._submitted.qsize(), job.infer_seconds)
            # Last: the event loop needs the interpreter at once, and gets it when this thread waits again.
            self._answers.hand_back([job])

    def _next(self, done: list[Job], seconds: float | None = None) -> Job | None:
        """Hand back what is done, then wait for a job. Raises Empty."""
        if done:
            self._answers.hand_back(done)
            done.clear()
        return self._submitted.get(timeout=seconds)

    def _admit(self, batcher: Batcher, job: Job) -> bool:
        """Decode a job and have it wait for its batch; False when it failed and is done."""
        started = time.perf_counter()
        try:
            self._running.begin(job)
        except RefusedBody as refusal:
            if not self._waiting.claim(job):
                return True
            self._answers.fail_deadly(job, refusal)
            return False
        if self._running.is_suspect(job):
            return not self._run_alone(job)
        try:
            call = job.codec.decode(job)
        except Exception as failure:
            self._running.end(job)
            if not self._waiting.claim(job):
                return True
            self._answers.fail(job, failure)
            job.queue_seconds, job.decode_seconds = started - job.arrived, time.perf_counter() - started
            return False
        job.decode_seconds = time.perf_counter() - started
        if call.timeout_us:
            limit_wait(job, call.timeout_us)
        batcher.add(item_of(job, call))
        return True

    def _run_alone(self, job: Job) -> bool:
        """Answer a job with whose body a worker ended; False where it was claimed before."""
        is_claimed = self._waiting.claim(job)
        if is_claimed:
            with self._model_is_free:
                self._execution.run_single(job)
        self._running.end(job)
        return is_claimed

    def _work_batch(self, batcher: Batcher, done: list[Job]) -> None:
        """Run the next batch, if there is one, and add its jobs to those that are done."""
        items = batcher.take()
        jobs = [item.job for item in items]
        try:
            self._work_items(batcher, items, jobs, done)
        finally:
            for job in jobs:
                self._running.end(job)

    def _work_items(self, batcher: Batcher, items: list[Item], jobs: list[Job], done: list[Job]) -> None:
        claimed = self._waiting.claim_all(jobs)
        done.extend(claimed)
        now = time.perf_counter()
        if len(claimed) < len(jobs) or any(job.deadline < now for job in claimed):
            late = {job for job in claimed if job.deadline < now}
            for job in late:
                self._answers.expire(job, now)
            in_time = set(claimed) - late
            items = [item for item in items if item.job in in_time]
        if not items:
            return
        try:
            with self._model_is_free:
                self._execution.run_batch(items)
        except NotRowWise as error:
            self._stop_batching(str(error))
            batcher.stop_batching()
        if self._device is not None and self.batching is not None and not self.not_batched:
            batcher.max_rows = self._device.max_rows(self.batching.max_batch_size)
        batcher.note_run(len(items), len(batcher) + self._submitted.qsize(), items[0].job.infer_seconds)
