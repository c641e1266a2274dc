"""The jobs that a model works on: each is written down before, and erased once the model has survived it."""

from __future__ import annotations

from gateway.engine.device import DeviceHealth
from gateway.engine.jobs import Job
from gateway.engine.running_bodies import RunningBodies
from runtimes.base import ModelInChild, TensorModel


class RunningJobs:
    """Writes down in `bodies` what one model works on; with None, nowhere.

    `device` is what its runs say of its GPU; None where it has none.
    """

    def __init__(
        self, model: TensorModel, bodies: RunningBodies | None, device: DeviceHealth | None = None
    ) -> None:
        self._bodies = bodies
        self._device = device
        self._child = model if isinstance(model, ModelInChild) else None

    def begin(self, job: Job) -> None:
        """Write a job down. Raises RefusedBody when several workers ended with its body."""
        if self._bodies is not None:
            job.place = self._bodies.begin(job.body)

    def is_suspect(self, job: Job) -> bool:
        """Tell whether a worker ended with the body of a job that is written down: it is to be run alone."""
        return self._bodies is not None and self._bodies.is_suspect(job.place)

    def end(self, job: Job) -> None:
        """Erase a job; one with which the model's own process ended stays, or with which its GPU was lost."""
        if self._device is not None and self._device.is_lost:
            return
        if job.place and self._bodies is not None and (self._child is None or self._child.is_alive()):
            self._bodies.end(job.place)
