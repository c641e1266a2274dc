"""The deployment class of a worker: what Serve calls.

The gateway imports it to have workers run, and Serve imports it in each of them. What a worker serves with is
imported in its own process alone, when it starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.contract import WorkerSpec

if TYPE_CHECKING:
    from gateway.worker.replica import Replica


class Worker:
    """One worker. Its construction ends when the model can answer, or raises why it cannot."""

    async def __init__(self, spec: WorkerSpec) -> None:  # type: ignore[misc]  # Serve awaits it
        from gateway.worker.replica import Replica

        self._replica: Replica = await Replica.start(spec)

    async def check_health(self) -> None:
        """Raise if this worker cannot answer; Serve calls this."""
        await self._replica.check_health()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Return how many calls are inside, and for how long there were none; for Serve's autoscaling.

        Serve calls this in a thread, so that it also sees calls that the event loop is busy with.
        """
        return self._replica.autoscaling_stats()

    async def is_awake(self) -> bool:
        """Answer through Serve: a call that waits for this is what starts the first worker."""
        return True

    async def __del__(self) -> None:
        """Leave the edge, answer the calls inside, close. Serve calls this once, at its shutdown."""
        if hasattr(self, "_replica"):
            await self._replica.stop()
