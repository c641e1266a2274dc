from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from gateway.worker.compute import ComputeThread, Job

SECONDS = 10


class Held:
    """Work that waits at a gate and answers with the body it got."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.gate = threading.Event()
        self.done: list[bytes] = []

    def __call__(self, job: Job) -> tuple[int, bytes]:
        self.begun.set()
        assert self.gate.wait(SECONDS)
        self.done.append(job.body)
        return 200, b"answer to " + job.body


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
            job = await compute.run(b"%d" % number, f"r-{number}")
            assert (job.status, job.answer) == (200, b"answer to %d" % number)
            assert job.request_id == f"r-{number}"
            assert job.arrived <= job.started <= job.finished
            answered.append(number)

        calls = [asyncio.create_task(call(number)) for number in range(50)]
        await _begun(work)
        work.gate.set()
        await asyncio.gather(*calls)
        return answered

    assert asyncio.run(main()) == list(range(50))
    assert work.done == [b"%d" % number for number in range(50)]


def test_many_calls_at_once_get_their_own_answers(compute: ComputeThread, work: Held) -> None:
    work.gate.set()

    async def call(number: int) -> None:
        for turn in range(20):
            body = b"%d.%d" % (number, turn)
            assert (await compute.run(body, "")).answer == b"answer to " + body

    async def main() -> None:
        await asyncio.gather(*(call(number) for number in range(100)))

    asyncio.run(main())
    assert len(work.done) == 2000


def test_a_cancelled_call_harms_no_other(compute: ComputeThread, work: Held) -> None:
    async def main() -> None:
        first, second, third = (asyncio.create_task(compute.run(b"%d" % n, "")) for n in range(3))
        await _begun(work)
        first.cancel()
        second.cancel()
        work.gate.set()
        assert (await third).answer == b"answer to 2"
        for cancelled in (first, second):
            with pytest.raises(asyncio.CancelledError):
                await cancelled
        assert (await compute.run(b"3", "")).answer == b"answer to 3"

    asyncio.run(main())
    assert compute.is_alive()


def test_calls_of_two_event_loops_go_back_to_their_own(compute: ComputeThread, work: Held) -> None:
    answers: dict[str, list[bytes]] = {}

    async def main(name: str) -> None:
        jobs = await asyncio.gather(*(compute.run(b"%s %d" % (name.encode(), n), "") for n in range(200)))
        answers[name] = [job.answer for job in jobs]

    loops = [threading.Thread(target=asyncio.run, args=(main(name),)) for name in ("one", "two")]
    for loop in loops:
        loop.start()
    assert work.begun.wait(SECONDS)
    work.gate.set()
    for loop in loops:
        loop.join(SECONDS)
    assert answers == {
        name: [b"answer to %s %d" % (name.encode(), n) for n in range(200)] for name in answers
    }
    assert sorted(answers) == ["one", "two"]


def test_a_loop_that_is_gone_harms_no_other(compute: ComputeThread, work: Held) -> None:
    async def leave() -> None:
        left = asyncio.create_task(compute.run(b"left", ""))
        await _begun(work)
        left.cancel()

    asyncio.run(leave())
    work.gate.set()
    assert asyncio.run(compute.run(b"next", "")).answer == b"answer to next"
    assert work.done == [b"left", b"next"]


def test_the_event_loop_is_free_while_the_model_works(compute: ComputeThread, work: Held) -> None:
    async def main() -> bytes:
        call = asyncio.create_task(compute.run(b"slow", ""))
        await _begun(work)
        ran = asyncio.Event()
        asyncio.get_running_loop().call_later(0.01, ran.set)
        await asyncio.wait_for(ran.wait(), SECONDS)
        assert not call.done()
        work.gate.set()
        return (await call).answer

    assert asyncio.run(main()) == b"answer to slow"


def test_stop_finishes_the_calls_that_wait(compute: ComputeThread, work: Held) -> None:
    async def main() -> list[bytes]:
        calls = [asyncio.create_task(compute.run(b"%d" % number, "")) for number in range(20)]
        await _begun(work)
        stopping = asyncio.create_task(asyncio.to_thread(compute.stop))
        work.gate.set()
        jobs = await asyncio.gather(*calls)
        await stopping
        return [job.answer for job in jobs]

    assert asyncio.run(main()) == [b"answer to %d" % number for number in range(20)]
    assert not compute.is_alive()


def test_stop_ends_an_idle_thread(compute: ComputeThread) -> None:
    assert compute.is_alive()
    compute.stop()
    assert not compute.is_alive()
