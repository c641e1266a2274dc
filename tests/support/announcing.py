"""A worker as far as it announces itself, and the gateway that answers it."""

from __future__ import annotations

import itertools
import time
from types import SimpleNamespace
from typing import Any

from gateway.contract import Announcement, AppName, Instructions, WorkerState
from gateway.metrics.tally import Tally
from gateway.worker.delivery import Delivery
from gateway.worker.replica import Replica
from gateway.worker.resting import Rest


class GatewayHandle:
    """The gateway's handle: it answers each announcement by `instructions`."""

    def __init__(self) -> None:
        self.instructions = Instructions()
        self.announce = SimpleNamespace(remote=self._answer)

    async def _answer(self, _announcement: Announcement) -> Instructions:
        return self.instructions


def announcing_replica(gateway: GatewayHandle) -> Any:
    """Return a worker without Ray and without a port."""
    replica: Any = object.__new__(Replica)
    replica.__dict__.update(
        _engine_numbers=None,
        _tally=Tally(),
        _log_counts=SimpleNamespace(totals=dict),
        _announcement=Announcement("w1", AppName("iris.v1"), WorkerState.LOADING),
        _loader=SimpleNamespace(has_child=False),
        _gpus=None,
        _told_until=0,
        _description=None,
        _must_describe=False,
        _must_sleep=False,
        _rest=Rest(),
        _numbers=itertools.count(1),
        _tracer=None,
        _delivery=Delivery({}),
        _gateway=gateway,
        _ready_at=time.time(),
    )
    return replica
