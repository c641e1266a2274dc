"""A worker as far as it reports, and the gateway that answers it."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

from gateway.contract import Announcement, AppName, Instructions, WorkerState
from gateway.metrics.tally import Tally
from gateway.worker.replica import Replica
from gateway.worker.reports import Reports

FIRST = Announcement("w1", AppName("iris.v1"), WorkerState.LOADING)


class Gateway:
    """Answers each report by `instructions`."""

    def __init__(self) -> None:
        self.instructions = Instructions()

    async def hear(self, _report: Announcement) -> Instructions:
        return self.instructions


def reporting_replica(gateway: Gateway) -> Any:
    """Return a worker without Ray and without a port."""
    replica: Any = object.__new__(Replica)
    tally = Tally()
    replica.__dict__.update(
        _engine_numbers=None,
        _tally=tally,
        _log_counts=SimpleNamespace(totals=dict),
        _loader=SimpleNamespace(has_child=False),
        _gpus=None,
        _must_sleep=False,
        _ready_at=time.time(),
        _reports=Reports(FIRST, {}, tally, gateway.hear, replica._present, replica._follow),
    )
    return replica
