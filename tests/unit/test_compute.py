from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import pytest

from gateway.worker.compute import ComputeThread, Job

SECONDS = 10
Answer = TypeVar("Answer")


def run(main: Coroutine[Any, Any, Answer]) -> Answer:
    return asyncio.run(asyncio.wait_for(main, SECONDS))


class Held:
    """Work that waits at a gate and answers with the body it got."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.gate = threading.Event()
        self.done: list[bytes] = []

    def __call__(self, job: Job) -> None:
        self.begun.set()
        assert self.gate.wait(SECONDS)
        (body,) = job.body
        self.done.append(body)
        job.status, job.answer = 200, b"answer to " + body


@pytest.fixture
def work() -> Held:
    return Held()


@pytest.fixture
def compute(work: Held) -> Iterator[ComputeThread]:
    thread = ComputeThread(work)
    yield thread
    work.gate.set()
    thread.stop()


async def _begun(work: Held) -> None:
    assert await asyncio.to_thread(work.begun.wait, SECONDS)


def test_calls_are_answered_in_the_order_they_came(compute: ComputeThread, work: Held) -> None:
    async def main() -> list[int]:
        answered: list[int] = []

        async def call(number: int) -> None:
            job = await compute.run([b"%d" % number], f"r-{number}")
            assert (job.status, job.answer) == (200, b"answer to %d" % number)
            assert job.request_id == f"r-{number}"
            assert job.arrived <= job.started <= job.finished
            answered.append(number)

        calls = [asyncio.create_task(call(number)) for number in range(50)]
        await _begun(work)
        work.gate.set()
        await asyncio.gather(*calls)
        return answered

    assert run(main()) == list(range(50))
    assert work.done == [b"%d" % number for number in range(50)]


def test_many_calls_at_once_get_their_own_answers(compute: ComputeThread, work: Held) -> None:
    work.gate.set()

    async def call(number: int) -> None:
        for turn in range(20):
            body = b"%d.%d" % (number, turn)
            assert (await compute.run([body], "")).answer == b"answer to " + body

    async def main() -> None:
        await asyncio.gather(*(call(number) for number in range(100)))

    run(main())
    assert len(work.done) == 2000


def test_a_cancelled_call_harms_no_other(compute: ComputeThread, work: Held) -> None:
    async def main() -> None:
        first, second, third = (asyncio.create_task(compute.run([b"%d" % n], "")) for n in range(3))
        await _begun(work)
        first.cancel()
        second.cancel()
        work.gate.set()
        assert (await third).answer == b"answer to 2"
        for cancelled in (first, second):
            with pytest.raises(asyncio.CancelledError):
                await cancelled
        assert (await compute.run([b"3"], "")).answer == b"answer to 3"

    run(main())
    assert compute.is_alive()


def test_calls_of_two_event_loops_go_back_to_their_own(compute: ComputeThread, work: Held) -> None:
    loops = [asyncio.new_event_loop() for _ in range(2)]
    for loop in loops:
        loop.set_debug(True)  # a call from another thread is an error then
    threads = [threading.Thread(target=loop.run_forever, daemon=True) for loop in loops]
    for thread in threads:
        thread.start()
    bodies = [b"%d" % number for number in range(400)]
    calls = [
        asyncio.run_coroutine_threadsafe(compute.run([body], ""), loops[number % 2])
        for number, body in enumerate(bodies)
    ]
    work.gate.set()
    assert [call.result(SECONDS).answer for call in calls] == [b"answer to " + body for body in bodies]
    for loop, thread in zip(loops, threads, strict=True):
        loop.call_soon_threadsafe(loop.stop)
        thread.join(SECONDS)
        loop.close()


def test_a_loop_that_is_gone_harms_no_other(compute: ComputeThread, work: Held) -> None:
    async def leave() -> None:
        left = asyncio.create_task(compute.run([b"left"], ""))
        await _begun(work)
        left.cancel()

    run(leave())
    work.gate.set()
    assert run(compute.run([b"next"], "")).answer == b"answer to next"
    assert work.done == [b"left", b"next"]


def test_the_event_loop_is_free_while_the_model_works(compute: ComputeThread, work: Held) -> None:
    async def main() -> bytes:
        call = asyncio.create_task(compute.run([b"slow"], ""))
        await _begun(work)
        ran = asyncio.Event()
        asyncio.get_running_loop().call_later(0.01, ran.set)
        await asyncio.wait_for(ran.wait(), SECONDS)
        assert not call.done()
        work.gate.set()
        return (await call).answer

    assert run(main()) == b"answer to slow"


def test_stop_finishes_the_calls_that_wait(compute: ComputeThread, work: Held) -> None:
    async def main() -> list[bytes]:
        calls = [asyncio.create_task(compute.run([b"%d" % number], "")) for number in range(20)]
        await _begun(work)
        stopping = asyncio.create_task(asyncio.to_thread(compute.stop))
        work.gate.set()
        jobs = await asyncio.gather(*calls)
        await stopping
        return [job.answer for job in jobs]

    assert run(main()) == [b"answer to %d" % number for number in range(20)]
    assert not compute.is_alive()


def test_stop_ends_an_idle_thread(compute: ComputeThread) -> None:
    assert compute.is_alive()
    compute.stop()
    assert not compute.is_alive()
