"""The watch over calls that compute for too long: they are ended, and if they do not end, it is told.

It is a thread of its own, as what computes may be the event loop. Code that keeps Python's interpreter to
itself stops this thread too; `gateway.worker.hang` is for that.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping

from gateway.engine.beat import Beat
from runtimes.base import InterruptibleModel, TensorModel

_END_SECONDS = 2.0
"""How long a call that was interrupted may take to end."""
_MOMENT_SECONDS = 0.5
"""How long one that was not: its time may be over by the engine's own clock, too."""
_LONGEST_PAUSE = 1.0
_SHORTEST_PAUSE = 0.05
_PAUSE = 0.02

log = logging.getLogger(__name__)


class Overruns:
    """Watches one model's beat until it is stopped, or until a call cannot be ended.

    Args:
        seconds: how long a run may take.
        names: what the log calls the version.
    """

    def __init__(self, beat: Beat, model: TensorModel, seconds: float, names: Mapping[str, str]) -> None:
        self._beat = beat
        self._model = model
        self._seconds = seconds
        self._names = names
        self._stopped = threading.Event()
        self.failure = ""
        """Why the model is of no use any more, "" while it is."""
        threading.Thread(target=self._run, name="overruns", daemon=True).start()

    def stop(self) -> None:
        """Watch no more."""
        self._stopped.set()

    def _run(self) -> None:
        pause = min(_LONGEST_PAUSE, max(_SHORTEST_PAUSE, self._seconds / 4))
        while not self._stopped.wait(pause):
            since = self._beat.since
            if since and time.perf_counter() - since > self._seconds and not self._end(since):
                self.failure = f"a call computed for {self._seconds:g} s, and cannot be ended"
                return

    def _end(self, since: float) -> bool:
        """End the run that began then; False where it goes on."""
        beat, model = self._beat, self._model
        beat.overdue = since
        log.warning(
            "call.overran",
            extra={
                "seconds": self._seconds,
                "request_ids": [job.request_id for job in beat.jobs()],
                **self._names,
            },
        )
        end = time.perf_counter() + _MOMENT_SECONDS
        if isinstance(model, InterruptibleModel):
            end = time.perf_counter() + _END_SECONDS
            model.interrupt()
        while beat.since == since and time.perf_counter() < end:
            time.sleep(_PAUSE)
        return beat.since != since
