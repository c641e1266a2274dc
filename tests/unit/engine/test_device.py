"""When batches become smaller and larger again, and when a worker is of no use any more."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.engine.device import SMALLER_SECONDS, DeviceHealth
from runtimes.base import Array
from runtimes.errors import DeviceLost, DeviceOutOfMemory, ExecutionError, InputError
from tests.support.gpu_errors import ILLEGAL_ADDRESS, TORCH_MEMORY

NO_MEMORY = ExecutionError(TORCH_MEMORY)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> DeviceHealth:
    return DeviceHealth(clock)


def rows(count: int) -> dict[str, Array]:
    return {"x": np.zeros((count, 4), np.float32)}


def test_batches_are_halved_and_double_again_in_time(health: DeviceHealth, clock: Clock) -> None:
    assert health.max_rows(64) == 64
    for count, left in ((64, 32), (32, 16), (9, 4)):
        assert isinstance(health.explained(NO_MEMORY, rows(count), is_alone=False), DeviceOutOfMemory)
        assert health.max_rows(64) == left
    clock.now += SMALLER_SECONDS - 1
    assert health.max_rows(64) == 4
    clock.now += 1
    assert health.max_rows(64) == 8
    clock.now += 2 * SMALLER_SECONDS
    assert health.max_rows(64) == 32
    clock.now += SMALLER_SECONDS
    assert health.max_rows(64) == 64
    assert health.explained(NO_MEMORY, rows(1), is_alone=False)
    assert health.max_rows(64) == 1
    assert not health.failure


def test_calls_that_keep_finding_no_memory_end_the_worker(health: DeviceHealth, clock: Clock) -> None:
    health.answered(rows(4))
    for _ in range(5):
        assert health.explained(NO_MEMORY, rows(2), is_alone=True)
    assert not bool(health.failure), "a moment is not enough"
    clock.now += 6
    assert health.explained(NO_MEMORY, rows(4), is_alone=True)
    assert health.failure == "6 calls in a row found no memory on the GPU, in 6 s"
    assert not health.is_lost


def test_a_call_that_finds_memory_ends_the_row(health: DeviceHealth, clock: Clock) -> None:
    for _ in range(10):
        health.explained(NO_MEMORY, rows(1), is_alone=True)
        health.explained(NO_MEMORY, rows(1), is_alone=True)
        clock.now += 4
        health.answered(rows(1))
    assert not health.failure


def test_calls_larger_than_any_before_end_no_worker(health: DeviceHealth, clock: Clock) -> None:
    health.answered(rows(4))
    for _ in range(10):
        assert health.explained(NO_MEMORY, rows(5), is_alone=True)
        clock.now += 10
    assert not health.failure


def test_a_lost_gpu_ends_the_worker_at_once(health: DeviceHealth) -> None:
    lost = health.explained(ExecutionError(ILLEGAL_ADDRESS), rows(1), is_alone=True)
    assert isinstance(lost, DeviceLost)
    assert health.is_lost
    assert "an illegal memory access" in health.failure


def test_what_callers_write_is_not_taken_for_it(health: DeviceHealth) -> None:
    assert health.explained(InputError(f"no number: {ILLEGAL_ADDRESS}"), rows(1), is_alone=True) is None
    assert health.explained(ExecutionError("a node failed"), rows(1), is_alone=True) is None
    assert not health.failure
