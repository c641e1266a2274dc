"""The work of a model's thread where calls run together: jobs are taken, decoded, and run in batches."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from queue import Empty

from gateway.engine.batching import Batcher, Item, NotRowWise, item_of
from gateway.engine.execution import limit_wait
from gateway.engine.jobs import Job
from gateway.engine.work import Work
from gateway.errors import RefusedBody
from gateway.serving import Batching

log = logging.getLogger(__name__)


class BatchWork:
    """Answers the jobs of one model in batches, in the model's thread; `names` are for the log."""

    def __init__(self, work: Work, batching: Batching, names: Mapping[str, str]) -> None:
        self._work = work
        self._batching = batching
        self._names = names
        self.batcher = Batcher(batching)
        self.not_batched = ""
        """Why calls are answered one by one from some time on, "" where they are not."""

    def run(self) -> bool:
        """Answer jobs until the end; True when the model proves before that not to be row-wise."""
        batcher, ending = self.batcher, False
        while not ending or batcher:
            done: list[Job] = []
            if not ending:
                ending = self._gather(done)
            self._run_next(done)
            if done:
                self._work.answers.hand_back(done)
            if self.not_batched and not batcher:
                return not ending
        return False

    def _gather(self, done: list[Job]) -> bool:
        """Take jobs until the next batch is to be run; returns whether no more will come."""
        work, batcher = self._work, self.batcher
        while not batcher.is_full:
            try:
                job = work.submitted.get_nowait() if batcher else self._next(done)
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
            if batcher.is_idle and work.submitted.empty():
                self._run_at_once(job)
            elif job in work.waiting and not self._admit(job):
                done.append(job)
        return False

    def _run_at_once(self, job: Job) -> None:
        """Answer a job when no other waits and no more are expected."""
        work, batcher = self._work, self.batcher
        if work.waiting.claim(job):
            with work.model_is_free:
                began = time.perf_counter()
                work.pace.note(work.run_single(job) - began)
            batcher.note_single(job.arrived, work.submitted.qsize(), job.infer_seconds)
            # Last: the event loop needs the interpreter at once, and gets it when this thread waits again.
            work.answers.hand_back([job])

    def _next(self, done: list[Job], seconds: float | None = None) -> Job | None:
        """Hand back what is done, then wait for a job. Raises Empty."""
        work = self._work
        if done:
            work.answers.hand_back(done)
            done.clear()
        return work.submitted.get(timeout=seconds)

    def _admit(self, job: Job) -> bool:
        """Decode a job and have it wait for its batch; False when it failed and is done."""
        work, batcher = self._work, self.batcher
        started = time.perf_counter()
        try:
            work.running.begin(job)
        except RefusedBody as refusal:
            if not work.waiting.claim(job):
                return True
            work.answers.fail_deadly(job, refusal)
            return False
        if work.running.is_suspect(job):
            return not self._run_alone(job)
        try:
            call = job.codec.decode(job)
        except Exception as failure:
            work.running.end(job)
            if not work.waiting.claim(job):
                return True
            work.answers.fail(job, failure)
            job.queue_seconds, job.decode_seconds = started - job.arrived, time.perf_counter() - started
            return False
        job.decode_seconds = time.perf_counter() - started
        if call.timeout_us:
            limit_wait(job, call.timeout_us)
        batcher.add(item_of(job, call))
        return True

    def _run_alone(self, job: Job) -> bool:
        """Answer a job with whose body a worker ended; False where it was claimed before."""
        work = self._work
        is_claimed = work.waiting.claim(job)
        if is_claimed:
            with work.model_is_free:
                work.execution.run_single(job)
        work.running.end(job)
        return is_claimed

    def _run_next(self, done: list[Job]) -> None:
        """Run the next batch, if there is one, and add its jobs to those that are done."""
        batcher = self.batcher
        items = batcher.take()
        jobs = [item.job for item in items]
        try:
            self._run_items(items, jobs, done)
        finally:
            for job in jobs:
                self._work.running.end(job)

    def _run_items(self, items: list[Item], jobs: list[Job], done: list[Job]) -> None:
        work, batcher = self._work, self.batcher
        claimed = work.waiting.claim_all(jobs)
        done.extend(claimed)
        now = time.perf_counter()
        if len(claimed) < len(jobs) or any(job.deadline < now for job in claimed):
            late = {job for job in claimed if job.deadline < now}
            for job in late:
                work.answers.expire(job, now)
            in_time = set(claimed) - late
            items = [item for item in items if item.job in in_time]
        if not items:
            return
        try:
            with work.model_is_free:
                work.execution.run_batch(items)
        except NotRowWise as error:
            self.not_batched = str(error)
            tell_not_batched(self.not_batched, self._names)
            batcher.stop_batching()
        if work.device is not None and not self.not_batched:
            batcher.max_rows = work.device.max_rows(self._batching.max_batch_size)
        batcher.note_run(len(items), len(batcher) + work.submitted.qsize(), items[0].job.infer_seconds)


def tell_not_batched(reason: str, names: Mapping[str, str]) -> None:
    """Say in the log why the calls of a version do not run together."""
    log.warning("batching.off", extra={"reason": reason, **names})
