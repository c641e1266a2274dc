"""Calls wait for an engine's slots: in their order, within limits, and no longer than their callers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from gateway.engine.generation import Slots, Turn
from gateway.errors import DeadlineExceeded, Overload, QueueFull
from gateway.metrics.tally import Tally
from gateway.serving import QueueLimits


class Calls:
    """Calls on an engine with two slots, and what became of them."""

    def __init__(self, **limits: Any) -> None:
        self.tally = Tally()
        self.slots = Slots(2, self.tally, QueueLimits(**limits))
        self.began: list[str] = []
        self.failed: dict[str, tuple[Overload, int]] = {}

    def enter(self, name: str, **options: Any) -> Turn:
        turn = Turn(**options)
        self.slots.enter(turn, Call(self, name))
        return turn


class Call:
    """A call of that name."""

    def __init__(self, calls: Calls, name: str) -> None:
        self._calls = calls
        self._name = name

    def begin(self) -> None:
        self._calls.began.append(self._name)

    def fail(self, failure: Overload, retry_after: int) -> None:
        self._calls.failed[self._name] = failure, retry_after


def on_a_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(test())

    run.__name__ = test.__name__
    return run


@on_a_loop
async def test_calls_run_first_come_first_served() -> None:
    calls = Calls()
    turns = [calls.enter(name) for name in "abcd"]
    assert calls.began == ["a", "b"]
    assert (calls.slots.queued, calls.tally.ongoing, calls.tally.generating) == (2, 4, 2)
    calls.slots.leave(turns[1])
    assert calls.began == ["a", "b", "c"]
    calls.slots.leave(turns[0])
    calls.slots.leave(turns[2])
    calls.slots.leave(turns[3])
    assert calls.began == ["a", "b", "c", "d"]
    assert (calls.slots.queued, calls.tally.ongoing, calls.tally.generating) == (0, 0, 0)


@on_a_loop
async def test_a_call_that_takes_more_slots_is_not_overtaken() -> None:
    calls = Calls()
    first = calls.enter("a")
    second = calls.enter("b", places=2)
    third = calls.enter("c")
    assert calls.began == ["a"]
    calls.slots.leave(first)
    assert calls.began == ["a", "b"]
    calls.slots.leave(second)
    assert calls.began == ["a", "b", "c"]
    calls.slots.leave(third)
    wide = calls.enter("d", places=9)
    assert calls.began[-1] == "d"
    calls.slots.leave(wide)
    assert calls.tally.generating == 0


@on_a_loop
async def test_too_many_calls() -> None:
    calls = Calls(max_requests=1)
    for name in "abcd":
        calls.enter(name)
    error, retry_after = calls.failed["d"]
    assert isinstance(error, QueueFull)
    assert retry_after >= 1
    assert calls.tally.ongoing == 3
    assert calls.tally.numbers().dropped == {"rejected": 1}


@on_a_loop
async def test_too_many_bytes() -> None:
    calls = Calls(max_bytes=10)
    for name, size in zip("abcde", (99, 99, 99, 5, 0), strict=True):
        calls.enter(name, size=size)
    # the first that waits may be larger than all the room
    assert list(calls.failed) == ["d", "e"]


@on_a_loop
async def test_who_waits_too_long() -> None:
    calls = Calls(timeout=0.02)
    turns = [calls.enter(name) for name in "abc"]
    await asyncio.sleep(0.1)
    error, _ = calls.failed["c"]
    assert isinstance(error, DeadlineExceeded)
    assert "works on other calls" in str(error)
    assert list(calls.failed) == ["c"], "those that run are not held to the queue's limit"
    for turn in turns:
        calls.slots.leave(turn)
    assert calls.tally.ongoing == calls.tally.generating == 0


@on_a_loop
async def test_a_deadline_holds_while_a_call_runs() -> None:
    calls = Calls()
    calls.enter("a", timeout=0.02)
    calls.enter("b")
    calls.enter("c", timeout=5.0)
    await asyncio.sleep(0.1)
    assert "not complete" in str(calls.failed["a"][0])
    assert calls.began == ["a", "b", "c"]
    assert calls.tally.numbers().dropped == {"expired": 1}


@on_a_loop
async def test_callers_who_hang_up() -> None:
    calls = Calls()
    turns = [calls.enter(name) for name in "abcd"]
    calls.slots.cancel(turns[2])
    calls.slots.cancel(turns[0])
    assert calls.began == ["a", "b", "d"]
    assert calls.tally.ongoing == calls.tally.generating == 2
    assert calls.tally.numbers().dropped == {"cancelled": 2}


@on_a_loop
async def test_nobody_enters_after_the_end() -> None:
    calls = Calls()
    calls.slots.stop()
    calls.enter("a")
    assert not calls.began
    assert isinstance(calls.failed["a"][0], QueueFull)


def test_this_file_runs_its_tests() -> None:
    with pytest.raises(ZeroDivisionError):
        on_a_loop(_fails)()


async def _fails() -> None:
    raise ZeroDivisionError


@on_a_loop
async def test_callers_take_turns() -> None:
    calls = Calls()
    running = [calls.enter(name, source=b"flood") for name in "ab"]
    waiting = [calls.enter(name, source=b"flood") for name in "cdef"]
    waiting += [calls.enter(name, source=b"other") for name in "xy"]
    for turn in running:
        calls.slots.leave(turn)
    assert calls.began == ["a", "b", "c", "x"]
    for turn in (waiting[0], waiting[4]):
        calls.slots.leave(turn)
    assert calls.began == ["a", "b", "c", "x", "d", "y"]
    for turn in (waiting[1], waiting[5], waiting[2], waiting[3]):
        calls.slots.leave(turn)
    assert calls.began[-2:] == ["e", "f"]
    assert (calls.slots.queued, calls.tally.ongoing) == (0, 0)


@on_a_loop
async def test_a_full_queue_has_room_for_who_has_less_than_another() -> None:
    calls = Calls(max_requests=3)
    for name in "abcde":
        calls.enter(name, source=b"flood")
    calls.enter("x", source=b"other")
    assert list(calls.failed) == ["e"]
    calls.enter("f", source=b"flood")
    calls.enter("y", source=b"other")
    assert list(calls.failed) == ["e", "f", "y"]
    assert all(isinstance(failure, QueueFull) for failure, _ in calls.failed.values())
    assert (calls.slots.queued, calls.tally.ongoing) == (3, 5)


@on_a_loop
async def test_a_large_call_does_not_take_the_room_of_small_ones() -> None:
    calls = Calls(max_bytes=10)
    for name in "abcd":
        calls.enter(name, source=b"flood", size=4)
    calls.enter("x", source=b"other", size=8)
    assert list(calls.failed) == ["x"]
    calls.enter("y", source=b"other", size=3)
    assert list(calls.failed) == ["x", "d"]
