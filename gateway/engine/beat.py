"""The beat of a model: since when a thread computes, and for which calls; another thread watches it."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.engine.batching import Item
from gateway.engine.jobs import Job


class Beat:
    """Written by whoever runs the model, one thread at a time; read by any.

    Plain attributes: to write them takes less than a tenth of a microsecond, and each call does so.
    """

    __slots__ = ("is_on_loop", "overdue", "since", "work")

    def __init__(self) -> None:
        self.since = 0.0
        """When the run began that goes on now, by `time.perf_counter`; 0 while none does."""
        self.work: Job | Sequence[Item] = ()
        """What the newest run answers. Read it only while `since` stays the same."""
        self.is_on_loop = False
        """Whether an event loop computes, and so does nothing else."""
        self.overdue = -1.0
        """The `since` of the run that took too long, and is to end."""

    @property
    def is_overdue(self) -> bool:
        """Whether the run that goes on now is to end."""
        return self.overdue == self.since

    def end(self) -> None:
        """Note the end of a run of decoded calls, whose tensors are not kept."""
        self.since = 0.0
        self.work = ()

    def jobs(self) -> list[Job]:
        """Return the calls of the newest run."""
        work = self.work
        return [work] if isinstance(work, Job) else [item.job for item in work]
