"""The jobs that a model works on: each is written down before, and erased once the model has survived it."""

from __future__ import annotations

from gateway.engine.jobs import Job
from gateway.engine.running_bodies import RunningBodies
from runtimes.base import ModelInChild, TensorModel


class RunningJobs:
    """Writes down in `bodies` what one model works on; with None, nowhere."""

    def __init__(self, model: TensorModel, bodies: RunningBodies | None) -> None:
        self._bodies = bodies
        self._child = model if isinstance(model, ModelInChild) else None

    def begin(self, job: Job) -> bool:
        """Write a job down; returns whether a worker ended with its body, so that it is to be run alone.

        Raises:
            RefusedBody: when several did.
        """
        bodies = self._bodies
        if bodies is None:
            return False
        job.place = bodies.begin(job.body)
        return bodies.is_suspect(job.place)

    def end(self, job: Job) -> None:
        """Erase a job; one with which the model's own process ended stays."""
        if job.place and self._bodies is not None and (self._child is None or self._child.is_alive()):
            self._bodies.end(job.place)
