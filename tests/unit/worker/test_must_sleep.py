"""A worker that the gateway tells to sleep: what it reports, and what Serve decides by that."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.contract import Announcement, AppName, Instructions, WorkerState
from gateway.metrics.tally import Tally
from gateway.worker.delivery import Delivery
from gateway.worker.replica import Replica
from gateway.worker.resting import Rest
from gateway.worker.scaling import IDLE, ONGOING
from tests.unit.worker.test_scaling import scaled


class Gateway:
    """The gateway's handle: it answers each announcement by `instructions`."""

    def __init__(self) -> None:
        self.instructions = Instructions()
        self.announce = SimpleNamespace(remote=self._answer)

    async def _answer(self, _announcement: Announcement) -> Instructions:
        return self.instructions


@pytest.fixture
def gateway() -> Gateway:
    return Gateway()


@pytest.fixture
def replica(gateway: Gateway) -> Any:
    """A worker as far as it announces itself, without Ray and without a port."""
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


def test_a_worker_that_is_to_sleep_says_it_is_idle_for_ever_and_serve_ends_it(
    replica: Any, gateway: Gateway
) -> None:
    serve = scaled(min=0, max=1, downscale_to_zero_delay="1h")
    asyncio.run(replica._announce())
    serve.run(replica.autoscaling_stats())
    assert serve.decide() == 1
    gateway.instructions = Instructions(must_sleep=True)
    asyncio.run(replica._announce())
    assert replica.autoscaling_stats() == {ONGOING: 0.0, IDLE: math.inf}
    serve.run(replica.autoscaling_stats())
    assert serve.decide() == 0


def test_it_goes_on_while_it_has_calls_and_where_it_is_told_otherwise(replica: Any, gateway: Gateway) -> None:
    gateway.instructions = Instructions(must_sleep=True)
    asyncio.run(replica._announce())
    replica._tally = SimpleNamespace(ongoing=1, last_call=time.time())
    assert replica.autoscaling_stats() == {ONGOING: 1.0, IDLE: 0.0}
    replica._tally = Tally()
    gateway.instructions = Instructions()
    asyncio.run(replica._announce())
    assert replica.autoscaling_stats()[IDLE] < 60


def test_one_that_is_to_stay_stays(replica: Any, gateway: Gateway) -> None:
    gateway.instructions = Instructions(must_sleep=True)
    asyncio.run(replica._announce())
    serve = scaled(min=1, max=1)
    serve.run(replica.autoscaling_stats())
    assert serve.decide() == 1
