"""A worker that the gateway tells to sleep: what it reports, and what Serve decides by that."""

from __future__ import annotations

import asyncio
import math
import time
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.contract import Instructions
from gateway.metrics.tally import Tally
from gateway.worker.scaling import IDLE, ONGOING
from tests.support.announcing import Gateway, reporting_replica
from tests.unit.worker.test_scaling import scaled


@pytest.fixture
def gateway() -> Gateway:
    return Gateway()


@pytest.fixture
def replica(gateway: Gateway) -> Any:
    return reporting_replica(gateway)


def test_a_worker_that_is_to_sleep_says_it_is_idle_for_ever_and_serve_ends_it(
    replica: Any, gateway: Gateway
) -> None:
    serve = scaled(min=0, max=1, downscale_to_zero_delay="1h")
    asyncio.run(replica._reports.tell())
    serve.run(replica.autoscaling_stats())
    assert serve.decide() == 1
    gateway.instructions = Instructions(must_sleep=True)
    asyncio.run(replica._reports.tell())
    assert replica.autoscaling_stats() == {ONGOING: 0.0, IDLE: math.inf}
    serve.run(replica.autoscaling_stats())
    assert serve.decide() == 0


def test_it_goes_on_while_it_has_calls_and_where_it_is_told_otherwise(replica: Any, gateway: Gateway) -> None:
    gateway.instructions = Instructions(must_sleep=True)
    asyncio.run(replica._reports.tell())
    replica._tally = SimpleNamespace(ongoing=1, last_call=time.time())
    assert replica.autoscaling_stats() == {ONGOING: 1.0, IDLE: 0.0}
    replica._tally = Tally()
    gateway.instructions = Instructions()
    asyncio.run(replica._reports.tell())
    assert replica.autoscaling_stats()[IDLE] < 60


def test_one_that_is_to_stay_stays(replica: Any, gateway: Gateway) -> None:
    gateway.instructions = Instructions(must_sleep=True)
    asyncio.run(replica._reports.tell())
    serve = scaled(min=1, max=1)
    serve.run(replica.autoscaling_stats())
    assert serve.decide() == 1
