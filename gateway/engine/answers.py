"""How calls are answered: what those are told that the model does not answer, and how all reach their loops.

Every call ends here, once: it is counted, and counts as evidence where its version is to blame for it.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from gateway.codec.statuses import explain
from gateway.engine.job_spans import record_job
from gateway.engine.jobs import Job, JobQueue
from gateway.errors import DeadlineExceeded, Overrun, QueueFull, RefusedBody, Replaced
from gateway.metrics.tally import Tally
from gateway.wording import counted
from runtimes.errors import DeviceLost, DeviceOutOfMemory, OutOfMemory, UnfitInput
from runtimes.memory_errors import is_out_of_memory

OVERRAN = "the model computed the call for longer than it may, and was ended"
_LONGEST_RETRY_SECONDS = 30
_MEMORY_RETRY_SECONDS = 2

log = logging.getLogger(__name__)


class Answers:
    """The answers of one version's calls; `names` are what the log calls the version.

    What fails a call writes the answer only: `hand_back` sends it.
    """

    def __init__(self, tally: Tally, names: Mapping[str, str]) -> None:
        self._tally = tally
        self._names = names

    def fail(self, job: Job, failure: Exception) -> None:
        """Fail a call with an error."""
        if isinstance(failure, Replaced):
            job.retry_after = 1
            job.is_blameless = True
            self._tally.dropped("rejected")
        elif isinstance(failure, DeviceOutOfMemory):
            job.retry_after = _MEMORY_RETRY_SECONDS
        elif is_out_of_memory(failure) and not isinstance(failure, DeviceLost):
            failure = _out_of_memory(failure)
        job.is_unfit = isinstance(failure, UnfitInput)
        job.status, message = explain(failure, job.request_id, self._names_of(job))
        job.codec.error(job, job.status, message)

    def fail_overrun(self, job: Job) -> None:
        """Fail a call that the model computes and does not end."""
        self.fail(job, Overrun(OVERRAN))

    def fail_deadly(self, job: Job, refusal: RefusedBody) -> None:
        """Fail a call whose body ended several workers."""
        self._tally.dropped("deadly")
        job.is_blameless = True
        self.fail(job, refusal)

    def fail_for_room(self, job: Job, waiting: JobQueue) -> None:
        """Fail a call for which there is no room among those that wait."""
        # The queue takes about as long as its oldest has waited.
        job.retry_after = min(max(1, math.ceil(waiting.age(job.arrived))), _LONGEST_RETRY_SECONDS)
        self._tally.dropped("rejected")
        job.is_blameless = True
        load = f"{counted(len(waiting), 'call')}, {counted(waiting.bytes, 'byte')}"
        self.fail(job, QueueFull(f"too many calls wait for the model: {load}; ask again later"))

    def fail_replaced(self, job: Job, reason: str) -> None:
        """Fail a call that waits for a model which takes no more."""
        self.fail(job, Replaced(f"the worker is replaced: {reason}; ask again"))

    def expire(self, job: Job, now: float) -> None:
        """Fail a call whose time is over."""
        job.queue_seconds, job.decode_seconds = now - job.arrived, 0.0
        limit = job.deadline - job.began
        self._tally.dropped("expired")
        # Whoever shortens a deadline decides how many calls miss it.
        job.is_blameless = job.timeout < math.inf
        self.fail(job, DeadlineExceeded(f"the call waited for the model for longer than its {limit:.3g} s"))
        job.body = ()

    def hand_back(self, jobs: Sequence[Job]) -> None:
        """Have calls that are done answered, each on its loop. From any thread."""
        loops = {job.loop for job in jobs}
        for loop in loops:
            own = list(jobs) if len(loops) == 1 else [job for job in jobs if job.loop is loop]
            # A loop that was closed meanwhile takes nothing.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self.send, own)

    def send(self, jobs: Sequence[Job]) -> None:
        """Answer calls that are done, and count them. On their loop."""
        for job in jobs:
            if job.owner is None:
                continue  # cancelled, or given up before
            job.owner = None
            try:
                job.done(job)
            except Exception:
                log.exception("answer.failed", extra={"request_id": job.request_id, **self._names_of(job)})
            job.body = ()  # an idle thread still refers to its last job
            self._tally.ongoing -= 1
            seconds = time.perf_counter() - job.began
            if job.decode_seconds:
                self._tally.answered(
                    job.role,
                    job.status,
                    seconds,
                    job.queue_seconds,
                    job.decode_seconds + job.infer_seconds + job.encode_seconds,
                    job.infer_seconds,
                    job.encode_seconds,
                    job.is_unfit,
                )
            else:
                self._tally.refused(job.role, job.status)
            if job.is_placed and not job.is_blameless:
                self._tally.judged(job.source, job.status, seconds, job.is_unfit, None, job.sticky)
            if job.trace is not None:
                record_job(job, self._names.get("model", ""))

    def cancel(self, job: Job) -> None:
        """Count a call whose caller hung up; it is not answered."""
        job.owner = None
        job.is_cancelled = True
        self._tally.ongoing -= 1
        self._tally.dropped("cancelled")
        record_job(job, self._names.get("model", ""), is_cancelled=True)

    def _names_of(self, job: Job) -> Mapping[str, str]:
        """Return what the log calls the version, and the trace where there is one."""
        return self._names if job.trace is None else {**self._names, "trace_id": job.trace.own.trace_id}


def _out_of_memory(failure: Exception) -> OutOfMemory:
    error = OutOfMemory("the call needs more memory than the model may use; send less in one call")
    error.__cause__ = failure
    return error
