from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from gateway.codec.call import Call
from gateway.engine import pace
from gateway.engine.jobs import Job
from gateway.engine.pace import Pace
from gateway.engine.thread import ComputeThread
from gateway.metrics.tally import Tally
from gateway.serving import Batching
from runtimes.base import Array, Signature, TensorSpec
from runtimes.errors import ExecutionError

SECONDS = 10
ENOUGH = 32
QUICK, MIDDLING, SLOW = 0.00005, 0.001, 0.004


def learned(*seconds: float) -> Pace:
    learner = Pace()
    for each in seconds:
        learner.note(each)
    return learner


def test_nothing_is_believed_before_enough_calls() -> None:
    assert not learned(*[QUICK] * (ENOUGH - 1)).is_quick(10)
    assert learned(*[QUICK] * ENOUGH).is_quick(10)


def test_one_slow_call_is_enough_to_wait_for_as_many_again() -> None:
    learner = learned(*[QUICK] * 1000, SLOW)
    for _ in range(ENOUGH):
        assert not learner.is_quick(10)
        learner.note(QUICK)
    assert learner.is_quick(10)


def test_calls_that_are_not_quick_are_found_out_by_their_mean() -> None:
    assert not learned(*[MIDDLING] * 100).is_quick(10)
    assert not learned(*[QUICK] * 100, *[MIDDLING] * ENOUGH).is_quick(10)
    assert learned(*[QUICK, QUICK, QUICK, MIDDLING] * 100).is_quick(10)


def test_a_large_body_is_never_quick() -> None:
    assert not learned(*[QUICK] * 1000).is_quick(1_000_000)


class Where:
    """A model that notes which thread runs it, and is at once model and codec."""

    signature = Signature((), (TensorSpec("x", "FP32", (-1,)),))
    platform = "test_where"
    device = "cpu"
    fails = False

    def __init__(self) -> None:
        self.threads: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Event()

    def infer(self, _inputs: Mapping[str, Array], _outputs: Sequence[str] = ()) -> dict[str, Array]:
        self.threads.append(threading.get_ident())
        self.begun.set()
        assert self.gate.wait(SECONDS)
        if self.fails:
            raise ExecutionError("no")
        return {"x": np.array([1e300]).astype("f4")}

    def close(self) -> None:
        pass

    def decode(self, _job: Job) -> Call:
        return Call("", {})

    def encode(self, job: Job, _call: Call, outputs: Mapping[str, Array]) -> None:
        job.answer = repr(outputs["x"].tolist()).encode()

    def error(self, job: Job, _status: int, message: str) -> None:
        job.answer = message.encode()


class Calls:
    def __init__(self, batching: Batching | None = None) -> None:
        self.model = Where()
        self.tally = Tally()
        self.compute = ComputeThread(self.model, self.tally, batching=batching)

    def submit(self, body: bytes = b"x") -> asyncio.Future[Job]:
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Job] = loop.create_future()
        self.compute.submit(Job([body], self.model, loop, answered.set_result))
        return answered

    async def warm_up(self) -> None:
        """Call until calls are answered on the loop."""
        for _ in range(50 * ENOUGH):
            await self.submit()
            if self.model.threads[-1] == threading.get_ident():
                return
        raise AssertionError("no call was answered on the loop")

    async def on_loop(self, body: bytes = b"x") -> bool:
        await self.submit(body)
        return self.model.threads[-1] == threading.get_ident()


@pytest.fixture(params=[None, Batching()], ids=["alone", "batched"])
def calls(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Calls]:
    """Calls where a busy machine makes none slow."""
    monkeypatch.setattr(pace, "_QUICK_SECONDS", 0.05)
    monkeypatch.setattr(pace, "_SLOW_SECONDS", 0.1)
    calls = Calls(request.param)
    assert not calls.compute.not_batched
    yield calls
    calls.model.gate.set()
    calls.compute.stop()


def run(main: Any) -> None:
    asyncio.run(asyncio.wait_for(main, SECONDS))


def test_quick_calls_are_answered_on_the_loop_at_once_and_counted(calls: Calls) -> None:
    async def main() -> None:
        await calls.warm_up()
        assert threading.get_ident() not in calls.model.threads[:ENOUGH]
        before = calls.tally.numbers()
        job = calls.submit()
        assert job.done()
        assert job.result().answer == b"[inf]"
        assert job.result().status == 200
        after = calls.tally.numbers()
        assert after.succeeded.calls == before.succeeded.calls + 1
        assert after.succeeded.infer > before.succeeded.infer
        assert calls.tally.ongoing == 0
        assert not await calls.on_loop(bytes(100_000))

    with np.errstate(over="raise"):
        run(main())


def test_a_call_that_fails_on_the_loop_has_its_answer(calls: Calls) -> None:
    async def main() -> None:
        await calls.warm_up()
        calls.model.fails = True
        job = calls.submit()
        assert job.done()
        assert (job.result().status, job.result().answer) == (500, b"no")

    run(main())


def test_a_loop_is_held_up_by_one_slow_call_and_not_by_the_next(calls: Calls) -> None:
    async def main() -> None:
        await calls.warm_up()
        calls.model.gate.clear()
        threading.Timer(0.15, calls.model.gate.set).start()
        slow = calls.submit()
        assert slow.done()
        for _ in range(ENOUGH):
            assert not await calls.on_loop()
        await calls.warm_up()

    run(main())


def test_the_loop_does_not_work_beside_the_models_thread(calls: Calls) -> None:
    async def main() -> None:
        await calls.warm_up()
        calls.model.gate.clear()
        calls.model.begun.clear()
        first = calls.submit(bytes(100_000))
        assert await asyncio.to_thread(calls.model.begun.wait, SECONDS)
        second = calls.submit()
        assert not second.done()
        calls.model.gate.set()
        await asyncio.gather(first, second)
        assert threading.get_ident() not in calls.model.threads[-2:]

    run(main())


def test_a_call_that_was_cancelled_while_it_ran_still_has_the_model(calls: Calls) -> None:
    async def main() -> None:
        await calls.warm_up()
        calls.model.gate.clear()
        calls.model.begun.clear()
        loop = asyncio.get_running_loop()
        job = Job([bytes(100_000)], calls.model, loop, lambda _: None)
        calls.compute.submit(job)
        assert await asyncio.to_thread(calls.model.begun.wait, SECONDS)
        job.cancel()
        assert calls.tally.ongoing == 0
        second = calls.submit()
        assert not second.done()
        calls.model.gate.set()
        await second

    run(main())


def test_where_batches_are_expected_the_loop_leaves_calls_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "_QUICK_SECONDS", 0.05)
    monkeypatch.setattr(pace, "_SLOW_SECONDS", 0.1)
    calls = Calls(Batching())

    async def main() -> None:
        await calls.warm_up()
        calls.model.gate.clear()
        calls.model.begun.clear()
        first = calls.submit(bytes(100_000))
        assert await asyncio.to_thread(calls.model.begun.wait, SECONDS)
        others = [calls.submit() for _ in range(15)]
        calls.model.gate.set()
        await asyncio.gather(first, *others)
        assert not await calls.on_loop()
        await calls.warm_up()

    try:
        run(main())
    finally:
        calls.model.gate.set()
        calls.compute.stop()
