"""The thread that owns the model: calls come from event loops, and their answers go back there.

All work on a call that costs CPU (decoding, inference, encoding) is done here, so an event loop only
moves bytes. The thread takes every call that waits in one go and hands the answers back together:
at high rates a hand-over costs less than a call.

A call waits in a bounded queue until the thread claims it. Whoever claims it first has it: the thread to
work on it, the event loop because its caller hung up or its time is over.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Protocol

import numpy as np

from gateway.errors import DeadlineExceeded, QueueFull
from gateway.metrics import Tally
from gateway.worker.oip import Call
from gateway.worker.statuses import explain
from runtimes.base import Array, LoadedModel

# Answers are handed back at the latest after this long, even while more calls wait.
_HAND_BACK_SECONDS = 0.0005
# Event loops keep time in milliseconds: a timer may be early or late by one.
_TIMER_SECONDS = 0.001
# An alarm that is so late was set on an event loop that is gone.
_LOST_SECONDS = 1.0
_MICROSECONDS = 1_000_000
_LONGEST_RETRY_SECONDS = 30
_OK = 200
_NO_NAMES: Mapping[str, str] = {}

log = logging.getLogger(__name__)


class Codec(Protocol):
    """How one protocol writes calls and answers. Its methods run in the model's thread, or on the loop."""

    def decode(self, job: Job) -> Call:
        """Read a job's body. Raises InputError."""
        ...

    def encode(self, job: Job, call: Call, outputs: Mapping[str, Array]) -> None:
        """Write the outputs into `job.answer`. They may be views on other callers' data: copy them."""
        ...

    def error(self, job: Job, status: int, message: str) -> None:
        """Write an error into `job.answer`; `status` is HTTP's."""
        ...


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """How many calls may wait for the model, how many bytes of them, and how long, in seconds."""

    max_requests: int = 512
    max_bytes: int = 256 * 1024 * 1024
    timeout: float = 60.0


DEFAULT_LIMITS = QueueLimits()


@dataclass(slots=True, eq=False)
class Job:
    """One call on its way through the model's thread; make it on the event loop `loop`.

    `body` is in the pieces in which it came; `json_size` is what the caller says of it, as a header has it.
    `done` is called on `loop` once the answer is there, whatever it is; never after `cancel`.
    `timeout` is how long the caller waits for it to begin, in seconds since `began`, which is when the call
    came. Times are of `time.perf_counter`, in seconds, and so are `queue`, `decode`, `infer`, `encode`.
    `answer_json_size` says where raw tensors begin in the answer, None where there are none.
    `retry_after` is when to come back with a call that was refused, in seconds; 0 where nothing is said.
    """

    body: Sequence[bytes]
    codec: Codec
    loop: asyncio.AbstractEventLoop
    done: Callable[[Job], None]
    role: str = ""
    request_id: str = ""
    json_size: bytes = b""
    timeout: float = math.inf
    began: float = field(default_factory=time.perf_counter)
    arrived: float = 0.0
    deadline: float = math.inf
    queue: float = 0.0
    decode: float = 0.0
    infer: float = 0.0
    encode: float = 0.0
    status: int = 500
    answer: bytes = b""
    answer_json_size: int | None = None
    retry_after: int = 0
    cancelled: bool = False
    owner: ComputeThread | None = None

    def cancel(self) -> None:
        """Leave: the caller hung up. Nothing is heard of the job any more. Call it on the job's loop."""
        if self.owner is not None:
            self.owner.cancel(self)


class ComputeThread:
    """Answers jobs with one model, one at a time. `names` are what the log calls the version."""

    def __init__(
        self,
        model: LoadedModel,
        tally: Tally,
        limits: QueueLimits = DEFAULT_LIMITS,
        names: Mapping[str, str] = _NO_NAMES,
    ) -> None:
        self._model = model
        self._tally = tally
        self._limits = limits
        self._names = names
        self._submitted: SimpleQueue[Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        # What waits, oldest first, with its bytes. A job that left it stays in `_submitted` until its turn.
        self._waiting: dict[Job, int] = {}
        self._waiting_bytes = 0
        self._alarm = math.inf
        self._thread = threading.Thread(target=self._run, name="compute", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many calls wait for the model."""
        return len(self._waiting)

    def submit(self, job: Job) -> None:
        """Give a call to the model; where too many wait, it is answered with 503 at once.

        Call it on the job's loop.
        """
        now = job.arrived = time.perf_counter()
        size = sum(map(len, job.body))
        job.owner = self
        self._tally.ongoing += 1
        with self._lock:
            full = self._is_full(size)
            if not full:
                self._waiting[job] = size
                self._waiting_bytes += size
        if full:
            self._refuse(job, now)
            return
        job.deadline = job.began + min(job.timeout, self._limits.timeout)
        self._submitted.put(job)
        if job.deadline < self._alarm or self._alarm < now - _LOST_SECONDS:
            self._set_alarm(job.loop, job.deadline, now)

    def cancel(self, job: Job) -> None:
        """Take a call back, see `Job.cancel`."""
        if job.cancelled or job.owner is None:
            return
        self._claim(job)
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

    def _is_full(self, size: int) -> bool:
        limits, waiting = self._limits, len(self._waiting)
        # A call that is larger than all the room may come in alone.
        return waiting >= limits.max_requests or (
            waiting > 0 and self._waiting_bytes + size > limits.max_bytes
        )

    def _refuse(self, job: Job, now: float) -> None:
        with self._lock:
            waiting, size = len(self._waiting), self._waiting_bytes
            oldest = next(iter(self._waiting), job).arrived
        # The queue takes about as long as the oldest has waited.
        job.retry_after = min(max(1, math.ceil(now - oldest)), _LONGEST_RETRY_SECONDS)
        self._tally.dropped("rejected")
        text = f"too many calls wait for the model: {waiting} calls, {size} bytes; ask again later"
        self._fail(job, QueueFull(text))
        self._answer([job])

    def _claim(self, job: Job) -> bool:
        """Take a job out of the queue; False when somebody else did."""
        with self._lock:
            size = self._waiting.pop(job, None)
            if size is None:
                return False
            self._waiting_bytes -= size
            return True

    def _set_alarm(self, loop: asyncio.AbstractEventLoop, at: float, now: float) -> None:
        """Look at `at` for calls whose time is over. One alarm is enough: the earliest."""
        self._alarm = at
        loop.call_later(max(0.0, at - now) + _TIMER_SECONDS, self._look, loop, at)

    def _look(self, loop: asyncio.AbstractEventLoop, at: float) -> None:
        if at != self._alarm:
            return  # an earlier one was set since
        now = time.perf_counter()
        with self._lock:
            waiting = list(self._waiting)
        late = [job for job in waiting if job.deadline <= now and self._claim(job)]
        for job in late:
            self._expire(job, now)
        self._hand_back(late)
        self._alarm = math.inf
        soonest = min((job.deadline for job in waiting if job.deadline > now), default=math.inf)
        if soonest < math.inf:
            self._set_alarm(loop, soonest, now)

    def _expire(self, job: Job, now: float) -> None:
        job.queue = now - job.arrived
        self._tally.dropped("expired")
        given = job.deadline - job.began
        self._fail(job, DeadlineExceeded(f"the call waited for the model for longer than its {given:g} s"))
        job.body = ()

    def _fail(self, job: Job, failure: Exception) -> None:
        job.status, message = explain(failure, job.request_id, self._names)
        job.codec.error(job, job.status, message)

    def _run(self) -> None:
        # A number too large for FP32 becomes infinite, as in every other server; set once, not for each call.
        with np.errstate(over="ignore"):
            self._work_off()

    def _work_off(self) -> None:
        while (job := self._submitted.get()) is not None:
            done: list[Job] = []
            handed_back = time.perf_counter()
            more: Job | None = job
            while more is not None:
                if self._claim(more):
                    now = self._work(more)
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

    def _work(self, job: Job) -> float:
        """Answer one job; returns when that was."""
        started = time.perf_counter()
        decoded = inferred = 0.0
        job.queue = started - job.arrived
        try:
            call = job.codec.decode(job)
            decoded = time.perf_counter()
            if call.timeout_us:
                job.deadline = min(job.deadline, job.began + call.timeout_us / _MICROSECONDS)
            if decoded > job.deadline:
                self._expire(job, decoded)
                return decoded
            outputs = self._model.infer(call.inputs, tuple(call.outputs))
            inferred = time.perf_counter()
            job.codec.encode(job, call, outputs)
            job.status = _OK
        except Exception as failure:
            self._fail(job, failure)
        finished = time.perf_counter()
        # Where it failed, the step that did lasted until now.
        decoded = decoded or finished
        inferred = inferred or finished
        job.decode, job.infer, job.encode = decoded - started, inferred - decoded, finished - inferred
        return finished

    def _hand_back(self, jobs: list[Job]) -> None:
        loops = {job.loop for job in jobs}
        for loop in loops:
            own = jobs if len(loops) == 1 else [job for job in jobs if job.loop is loop]
            if not loop.is_closed():
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
