"""The thread that owns the model: calls come from event loops, and their answers go back there.

All work on a call that costs CPU (decoding, inference, encoding) is done here, so an event loop only
moves bytes. The thread takes every call that waits in one go and hands the answers back together:
at high rates a hand-over costs less than a call.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

import numpy as np

# Answers are handed back at the latest after this long, even while more calls wait.
_HAND_BACK_SECONDS = 0.0005


@dataclass(slots=True, eq=False)
class Job:
    """One call on its way through the model's thread. Times are of `time.perf_counter`, in seconds.

    `body` is in the pieces in which it came; `json_size` is what the caller says of it, as a header has it.
    `answer_json_size` says where raw tensors begin in the answer, None where there are none.
    """

    body: Sequence[bytes]
    request_id: str
    json_size: bytes
    answered: asyncio.Future[None]
    arrived: float = field(default_factory=time.perf_counter)
    started: float = 0.0
    decoded: float = 0.0
    inferred: float = 0.0
    finished: float = 0.0
    status: int = 500
    answer: bytes = b""
    answer_json_size: int | None = None


Work = Callable[[Job], None]


class ComputeThread:
    """Runs `work(job)` for one call at a time: it writes status and answer there, and must not raise."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._waiting: SimpleQueue[Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="compute", daemon=True)
        self._thread.start()

    async def run(self, body: Sequence[bytes], request_id: str, json_size: bytes = b"") -> Job:
        """Give a call to the model and wait for its answer."""
        job = Job(body, request_id, json_size, asyncio.get_running_loop().create_future())
        self._waiting.put(job)
        await job.answered
        return job

    def is_alive(self) -> bool:
        """Whether the thread still takes calls."""
        return self._thread.is_alive()

    def stop(self, seconds: float = 5.0) -> None:
        """Finish the calls that wait, then end the thread."""
        self._waiting.put(None)
        self._thread.join(seconds)

    def _run(self) -> None:
        # A number too large for FP32 becomes infinite, as in every other server; set once, not for each call.
        with np.errstate(over="ignore"):
            self._work_off()

    def _work_off(self) -> None:
        while (job := self._waiting.get()) is not None:
            done: list[Job] = []
            handed_back = time.perf_counter()
            more: Job | None = job
            while more is not None:
                more.started = time.perf_counter()
                self._work(more)
                more.finished = time.perf_counter()
                done.append(more)
                if more.finished - handed_back > _HAND_BACK_SECONDS:
                    _hand_back(done)
                    done, handed_back = [], more.finished
                try:
                    more = self._waiting.get_nowait()
                except Empty:
                    break
            _hand_back(done)
            if more is None:
                return


def _hand_back(jobs: list[Job]) -> None:
    loops = {job.answered.get_loop() for job in jobs}
    for loop in loops:
        own = jobs if len(loops) == 1 else [job for job in jobs if job.answered.get_loop() is loop]
        if not loop.is_closed():
            loop.call_soon_threadsafe(_answer, own)


def _answer(jobs: list[Job]) -> None:
    for job in jobs:
        if not job.answered.done():
            job.answered.set_result(None)
