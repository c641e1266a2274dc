"""One call on its way through a worker, and the bounded queue in which calls wait for the model.

A call waits until it is claimed, which only one can do: the model's thread, to work on it, or the event
loop, because the caller hung up or its time is over.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gateway.codec.call import Call
from gateway.engine.shares import displaced
from gateway.serving import QueueLimits
from gateway.tracing.call_trace import CallTrace
from runtimes.base import Array

# Event loops keep time in milliseconds: a timer may be early or late by one.
_TIMER_SECONDS = 0.001
# An alarm that is so late was set on an event loop that has ended.
_LOST_SECONDS = 1.0


class Codec(Protocol):
    """How one protocol reads calls and writes answers; called in the model's thread, or on the loop."""

    def decode(self, job: Job) -> Call:
        """Read a job's body. Raises InputError."""
        ...

    def encode(self, job: Job, call: Call, outputs: Mapping[str, Array]) -> None:
        """Write the outputs into `job.answer`. They may be views of an array that other calls share."""
        ...

    def error(self, job: Job, status: int, message: str) -> None:
        """Write an error into `job.answer`; `status` is HTTP's."""
        ...


class Owner(Protocol):
    """What has a job that is not answered yet."""

    def cancel(self, job: Job) -> None:
        """Forget the job; its caller hung up."""
        ...


@dataclass(slots=True, eq=False)
class Job:
    """One call on its way through the model's thread; make it on the event loop `loop`.

    Times are of `time.perf_counter`, in seconds, and so are durations.
    """

    body: Sequence[bytes | memoryview]
    """In the pieces in which it came."""
    codec: Codec
    loop: asyncio.AbstractEventLoop
    done: Callable[[Job], None]
    """Called on `loop` once the answer is there, whatever it is; never after `cancel`."""
    role: str = ""
    request_id: str = ""
    json_size: bytes = b""
    """How much of the body is JSON, as a header says it; empty where no header does."""
    timeout: float = math.inf
    """How long the caller waits for the model to begin, from `began` on."""
    began: float = field(default_factory=time.perf_counter)
    """When the call came."""
    arrived: float = 0.0
    """When it began to wait for the model."""
    deadline: float = math.inf
    queue_seconds: float = 0.0
    decode_seconds: float = 0.0
    infer_seconds: float = 0.0
    encode_seconds: float = 0.0
    status: int = 500
    is_unfit: bool = False
    """Whether the model found only while it ran that it cannot take the inputs."""
    answer: bytes = b""
    answer_json_size: int | None = None
    """Where raw tensors begin in the answer, None where there are none."""
    answer_type: bytes = b""
    """The type of the answer, where it is neither JSON nor raw tensors."""
    retry_after: int = 0
    """When to come back with a call that was refused; 0 where nothing is said."""
    is_cancelled: bool = False
    owner: Owner | None = None
    source: bytes = b""
    """Who calls, see `shares`."""
    is_placed: bool = False
    """Whether chance alone decided which version answers, so that a rollout may be judged by the call."""
    sticky: bytes = b""
    """A hash of what keeps its caller on the version; b"" where nothing does."""
    is_blameless: bool = False
    """Whether it failed by no fault of the version: a deadline of its caller, a full queue, a deadly body."""
    place: int = 0
    """Where it is written down that the model works on it, see `RunningBodies`."""
    trace: CallTrace | None = None
    """None where the call is not traced."""

    def cancel(self) -> None:
        """End the job without an answer, as its caller hung up; `done` is not called. For the job's loop."""
        if self.owner is not None:
            self.owner.cancel(self)


class JobQueue:
    """The jobs that wait, oldest first; safe to use from several threads.

    `on_late` is called, on an event loop, with the jobs that waited longer than they may; they have left.
    """

    def __init__(self, limits: QueueLimits, on_late: Callable[[list[Job]], None]) -> None:
        self._limits = limits
        self._on_late = on_late
        self._lock = threading.Lock()
        self._jobs: dict[Job, int] = {}
        self._bytes = 0
        self._alarm = math.inf
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, job: Job) -> bool:
        return job in self._jobs

    @property
    def bytes(self) -> int:
        """How many bytes of bodies wait."""
        return self._bytes

    def enter(self, job: Job) -> bool:
        """Have a job wait; False when there is no room. For the job's loop."""
        now = job.arrived = time.perf_counter()
        body, limits = job.body, self._limits
        size = len(body[0]) if len(body) == 1 else sum(map(len, body))
        limit = limits.timeout
        deadline = job.deadline = job.began + (limit if job.timeout > limit else job.timeout)
        with self._lock:
            waiting = len(self._jobs)
            # A call that is larger than all the room may come in alone.
            if (
                self._is_closed
                or waiting >= limits.max_requests
                or (waiting and self._bytes + size > limits.max_bytes)
            ):
                return False
            self._add(job, size)
        if deadline < self._alarm or self._alarm < now - _LOST_SECONDS:
            self._set_alarm(job.loop, deadline, now)
        return True

    def claim(self, job: Job) -> bool:
        """Take a job out; False where another has done so."""
        with self._lock:
            return self._remove(job)

    def claim_all(self, jobs: Iterable[Job]) -> list[Job]:
        """Take jobs out; returns those that were still there."""
        with self._lock:
            return [job for job in jobs if self._remove(job)]

    def displace(self, job: Job) -> list[Job]:
        """Have a job wait for which `enter` has no room, in place of others, which have left.

        Returns none where its caller has its share already; the job does not wait then. For the job's loop.
        """
        limits, size = self._limits, sum(map(len, job.body))
        with self._lock:
            held = Counter(other.source for other in self._jobs)
            if held[job.source] * len(held) >= len(self._jobs):
                return []
            if len(self._jobs) >= limits.max_requests:
                others = displaced(((other, 1) for other in self._jobs), job.source, 1, 1)
            else:
                lacking = self._bytes + size - limits.max_bytes
                others = displaced(self._jobs.items(), job.source, size, lacking)
            room = limits.max_bytes - self._bytes + sum(self._jobs[other] for other in others)
            if not others or size > room:
                return []
            for other in others:
                self._remove(other)
            self._add(job, size)
        if job.deadline < self._alarm:
            self._set_alarm(job.loop, job.deadline, job.arrived)
        return others

    def close(self) -> list[Job]:
        """Take in no more jobs; returns those that wait, which leave."""
        with self._lock:
            self._is_closed = True
            waiting = list(self._jobs)
            self._jobs.clear()
            self._bytes = 0
        return waiting

    def age(self, now: float) -> float:
        """Return how long the oldest job has waited, in seconds."""
        with self._lock:
            oldest = next(iter(self._jobs), None)
        return 0.0 if oldest is None else now - oldest.arrived

    def _add(self, job: Job, size: int) -> None:
        self._jobs[job] = size
        self._bytes += size

    def _remove(self, job: Job) -> bool:
        size = self._jobs.pop(job, None)
        if size is None:
            return False
        self._bytes -= size
        return True

    def _set_alarm(self, loop: asyncio.AbstractEventLoop, when: float, now: float) -> None:
        """Look when `when` for jobs whose time is over. One alarm is enough: the earliest."""
        self._alarm = when
        loop.call_later(max(0.0, when - now) + _TIMER_SECONDS, self._look, loop, when)

    def _look(self, loop: asyncio.AbstractEventLoop, when: float) -> None:
        if when != self._alarm:
            return  # an earlier one was set since
        now = time.perf_counter()
        with self._lock:
            waiting = list(self._jobs)
        self._alarm = math.inf
        soonest = min((job.deadline for job in waiting if job.deadline > now), default=math.inf)
        if soonest < math.inf:
            self._set_alarm(loop, soonest, now)
        self._on_late(self.claim_all(job for job in waiting if job.deadline <= now))
