"""What workers took of GPUs' memory, noted by kit for those that come later."""

from __future__ import annotations

from contextlib import suppress

from gateway.contract import Announcement, WorkerState
from gateway.control.state.database import State
from gateway.control.state.versions import memory_key
from gateway.errors import StoreError


class MeasuredGpus:
    """Notes what each worker took once it was loaded."""

    def __init__(self, state: State) -> None:
        self._state = state

    def hear(self, announcement: Announcement) -> None:
        """Take the report of a worker whose state has changed."""
        if announcement.state is not WorkerState.READY or not announcement.gpu_bytes:
            return
        # Without the disk, the next worker goes by an estimate.
        with suppress(StoreError):
            version = self._state.versions().get(announcement.app)
            if version is not None:
                self._state.measure_gpu(memory_key(version), announcement.gpu_bytes)
