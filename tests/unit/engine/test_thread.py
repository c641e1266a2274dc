from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import pytest

from gateway.codec.call import Call
from gateway.engine.jobs import Job
from gateway.engine.thread import ComputeThread
from gateway.metrics.tally import Tally
from gateway.serving import DEFAULT_LIMITS, QueueLimits
from runtimes.base import Array, Signature, TensorSpec
from runtimes.errors import ExecutionError, InputError

SECONDS = 10
SHORT = 0.05
Answer = TypeVar("Answer")


def run(main: Coroutine[Any, Any, Answer]) -> Answer:
    return asyncio.run(asyncio.wait_for(main, SECONDS))


class Plain:
    """A codec whose bodies are one number, and so are its answers; `late` waits for 1 µs."""

    def decode(self, job: Job) -> Call:
        body = b"".join(job.body)
        if body == b"bad":
            raise InputError("this is no number")
        timeout_us = 1 if body.startswith(b"late") else 0
        number = int(body.removeprefix(b"late").strip())
        return Call("", {"x": np.array([number])}, timeout_us=timeout_us)

    def encode(self, job: Job, call: Call, outputs: Mapping[str, Array]) -> None:
        job.answer = b"answer to %d" % outputs["x"][0]

    def error(self, job: Job, status: int, message: str) -> None:
        job.answer = b"%d: %s" % (status, message.encode())


class Held:
    """A model that waits at a gate and answers with what it got; 13 fails, 14 worse, 16 exits."""

    signature = Signature((TensorSpec("x", "INT64", (-1,)),), (TensorSpec("x", "INT64", (-1,)),))
    platform = "test_held"
    device = "cpu"

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.gate = threading.Event()
        self.done: list[int] = []

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        self.begun.set()
        assert self.gate.wait(SECONDS)
        number = int(inputs["x"][0])
        self.done.append(number)
        if number == 13:
            raise ExecutionError("13 is unlucky")
        if number == 14:
            raise RuntimeError("secret")
        if number == 16:
            sys.exit("secret")
        return dict(inputs)

    def close(self) -> None:
        pass


class Calls:
    """Calls on a compute thread, as coroutines."""

    def __init__(self, model: Held, limits: QueueLimits = DEFAULT_LIMITS) -> None:
        self.model = model
        self.tally = Tally()
        self.thread = ComputeThread(model, self.tally, limits)

    def submit(self, body: object, **more: Any) -> tuple[Job, asyncio.Future[Job]]:
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Job] = loop.create_future()
        job = Job([str(body).encode()], Plain(), loop, answered.set_result, **more)
        self.thread.submit(job)
        return job, answered

    async def __call__(self, body: object, **more: Any) -> Job:
        return await self.submit(body, **more)[1]

    async def busy(self) -> asyncio.Future[Job]:
        """Have the model at work; returns what it works on."""
        _, answered = self.submit(0)
        assert await asyncio.to_thread(self.model.begun.wait, SECONDS)
        return answered

    @property
    def dropped(self) -> dict[str, int]:
        return dict(self.tally.numbers().dropped)


@pytest.fixture
def model() -> Held:
    return Held()


@pytest.fixture
def compute(model: Held, request: pytest.FixtureRequest) -> Iterator[Calls]:
    calls = Calls(model, getattr(request, "param", DEFAULT_LIMITS))
    yield calls
    model.gate.set()
    calls.thread.stop()
    assert not calls.thread.is_alive()


def limited(**limits: Any) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("compute", [QueueLimits(**limits)], indirect=True)


@pytest.mark.parametrize(("body", "more"), [("1", {"timeout": 1e-6}), ("late 1", {})])
def test_a_deadline_that_a_caller_shortened_is_no_evidence(
    compute: Calls, model: Held, body: str, more: dict[str, float]
) -> None:
    async def main() -> None:
        busy = await compute.busy()
        _, late = compute.submit(body, is_placed=True, **more)
        model.gate.set()
        await busy
        assert (await late).status == 504
        assert (await compute(2, is_placed=True)).status == 200

    run(main())
    evidence = compute.tally.numbers().evidence
    assert (evidence.calls, evidence.errors) == (1, 0)


def test_calls_are_answered_in_the_order_they_came(compute: Calls, model: Held) -> None:
    async def main() -> list[int]:
        answered: list[int] = []

        async def call(number: int) -> None:
            job = await compute(number, request_id=f"r-{number}")
            assert (job.status, job.answer) == (200, b"answer to %d" % number)
            assert job.request_id == f"r-{number}"
            assert job.began <= job.arrived
            assert min(job.queue_seconds, job.decode_seconds, job.infer_seconds, job.encode_seconds) > 0
            answered.append(number)

        await compute.busy()
        calls = [asyncio.create_task(call(20 + number)) for number in range(50)]
        await asyncio.sleep(0)
        assert compute.thread.queued == 50
        assert compute.tally.ongoing == 51
        model.gate.set()
        await asyncio.gather(*calls)
        return answered

    assert run(main()) == list(range(20, 70))
    assert model.done == [0, *range(20, 70)]
    assert compute.thread.queued == compute.tally.ongoing == 0
    assert compute.tally.numbers().succeeded.calls == 51


def test_many_calls_at_once_get_their_own_answers(compute: Calls, model: Held) -> None:
    model.gate.set()

    async def call(number: int) -> None:
        for turn in range(20):
            body = 1000 * number + turn
            assert (await compute(body)).answer == b"answer to %d" % body

    async def main() -> None:
        await asyncio.gather(*(call(number) for number in range(1, 101)))

    run(main())
    assert len(model.done) == 2000


def test_each_failure_is_told_and_counted(compute: Calls, model: Held) -> None:
    model.gate.set()

    async def main() -> list[bytes]:
        return [(await compute(body, role="stable")).answer for body in ("bad", 13, 14, 16, 15)]

    assert run(main()) == [
        b"400: this is no number",
        b"500: 13 is unlucky",
        b"500: the worker failed on this call; its log says why",
        b"500: the model gave up with SystemExit",
        b"answer to 15",
    ]
    numbers = compute.tally.numbers()
    assert numbers.requests == {("stable", 400): 1, ("stable", 500): 3, ("stable", 200): 1}
    assert (numbers.succeeded.calls, numbers.failed.calls) == (1, 4)


def test_who_hangs_up_leaves_the_queue(compute: Calls, model: Held) -> None:
    async def main() -> None:
        running, answered = compute.submit(1)
        assert await asyncio.to_thread(model.begun.wait, SECONDS)
        jobs = [compute.submit(number) for number in (2, 3, 4)]
        for job in (running, jobs[0][0], jobs[2][0]):
            job.cancel()
            job.cancel()
        assert (compute.thread.queued, compute.tally.ongoing) == (1, 1)
        assert not jobs[0][0].body, "the body of a call that has left is not kept until its turn"
        model.gate.set()
        assert (await jobs[1][1]).answer == b"answer to 3"
        jobs[1][0].cancel()
        assert (await compute(5)).answer == b"answer to 5"
        assert not any(future.done() for future in (answered, jobs[0][1], jobs[2][1]))

    run(main())
    assert model.done == [1, 3, 5]
    assert compute.dropped == {"cancelled": 3}
    assert compute.tally.ongoing == 0
    assert compute.tally.numbers().succeeded.calls == 2


@limited(max_requests=2)
def test_a_full_queue_refuses_at_once_until_there_is_room(compute: Calls, model: Held) -> None:
    async def main() -> None:
        first = await compute.busy()
        waiting = [compute.submit(number) for number in (1, 2)]
        refused = await compute(3, role="stable")
        assert (refused.status, refused.retry_after) == (503, 1)
        assert refused.answer == b"503: too many calls wait for the model: 2 calls, 2 bytes; ask again later"
        waiting[0][0].cancel()
        assert compute.thread.queued == 1
        _, let_in = compute.submit(4)
        assert (await compute(5)).status == 503
        model.gate.set()
        for call in (first, waiting[1][1], let_in):
            assert (await call).status == 200
        assert (await compute(6)).status == 200

    run(main())
    assert compute.dropped == {"rejected": 2, "cancelled": 1}
    numbers = compute.tally.numbers()
    assert numbers.requests["stable", 503] == 1
    assert sum(numbers.request.counts) == 4, "what never waited has no duration"
    assert compute.tally.ongoing == 0


@limited(max_bytes=10)
def test_the_bytes_that_wait_are_bounded_too(compute: Calls, model: Held) -> None:
    async def main() -> None:
        first = await compute.busy()
        large, let_in = compute.submit("1".rjust(100))
        assert (await compute(2)).status == 503, "no room beside one that is too large"
        large.cancel()
        two = [compute.submit(str(number).rjust(5))[1] for number in (3, 4)]
        assert (await compute(5)).status == 503
        model.gate.set()
        assert [(await call).status for call in (first, *two)] == [200, 200, 200]
        assert not let_in.done()

    run(main())


@limited(max_requests=1)
def test_a_refused_caller_is_told_how_long_the_queue_takes(compute: Calls) -> None:
    async def main() -> None:
        await compute.busy()
        job, _ = compute.submit(1)
        job.arrived -= 4.5
        assert (await compute(2)).retry_after == 5
        job.arrived -= 1000
        assert (await compute(2)).retry_after == 30

    run(main())


def test_a_call_whose_time_is_over_is_answered_while_the_model_works(compute: Calls, model: Held) -> None:
    async def main() -> None:
        first = await compute.busy()
        patient, late = compute.submit(1, timeout=60)[1], compute.submit(2, timeout=SHORT)[1]
        later = compute.submit(3, timeout=2 * SHORT)[1]
        begun = time.perf_counter()
        job = await asyncio.wait_for(late, 1)
        assert time.perf_counter() - begun > SHORT / 2
        assert (job.status, job.retry_after) == (504, 0)
        assert job.answer == b"504: the call waited for the model for longer than its 0.05 s"
        assert (await asyncio.wait_for(later, 1)).status == 504
        assert not patient.done()
        assert compute.thread.queued == 1
        model.gate.set()
        assert [(await call).status for call in (first, patient)] == [200, 200]

    run(main())
    assert model.done == [0, 1]
    assert compute.dropped == {"expired": 2}
    assert compute.tally.ongoing == 0


@limited(timeout=SHORT)
def test_no_call_waits_longer_than_the_model_allows(compute: Calls, model: Held) -> None:
    async def main() -> None:
        await compute.busy()
        calls = [compute.submit(1)[1], compute.submit(2, timeout=60)[1], compute.submit(3, timeout=0.02)[1]]
        answers = [(await asyncio.wait_for(call, 1)).answer for call in calls]
        assert [answer.rpartition(b"its ")[2] for answer in answers] == [b"0.05 s", b"0.05 s", b"0.02 s"]

    run(main())
    model.gate.set()
    compute.thread.stop()
    assert model.done == [0]


def test_time_runs_from_when_the_call_came(compute: Calls, model: Held) -> None:
    model.gate.set()

    async def main() -> None:
        ago = time.perf_counter() - 1
        assert (await compute(1, began=ago, timeout=0.9)).status == 504
        assert (await compute(1, began=ago, timeout=60)).status == 200

    run(main())
    assert model.done == [1]


def test_a_body_may_say_how_long_its_caller_waits(compute: Calls, model: Held) -> None:
    async def main() -> None:
        first = await compute.busy()
        _, late = compute.submit("late 1")
        model.gate.set()
        assert (await first).status == 200
        assert (await late).answer == b"504: the call waited for the model for longer than its 1e-06 s"

    run(main())
    assert model.done == [0]
    assert compute.dropped == {"expired": 1}


def test_calls_of_two_event_loops_go_back_to_their_own(compute: Calls, model: Held) -> None:
    loops = [asyncio.new_event_loop() for _ in range(2)]
    for loop in loops:
        loop.set_debug(True)  # a call from another thread is an error then
    threads = [threading.Thread(target=loop.run_forever, daemon=True) for loop in loops]
    for thread in threads:
        thread.start()
    bodies = range(100, 500)
    calls = [asyncio.run_coroutine_threadsafe(compute(body), loops[body % 2]) for body in bodies]
    model.gate.set()
    assert [call.result(SECONDS).answer for call in calls] == [b"answer to %d" % body for body in bodies]
    for loop, thread in zip(loops, threads, strict=True):
        loop.call_soon_threadsafe(loop.stop)
        thread.join(SECONDS)
        loop.close()


def test_a_loop_that_is_gone_harms_no_other(compute: Calls, model: Held) -> None:
    async def leave() -> None:
        await compute.busy()
        compute.submit(1, timeout=SHORT)

    run(leave())
    model.gate.set()
    assert run(compute(2)).answer == b"answer to 2"


def test_an_answer_that_cannot_be_given_harms_no_other(compute: Calls, model: Held) -> None:
    async def main() -> None:
        await compute.busy()
        job, answered = compute.submit(1)
        answered.cancel()  # so that giving the answer fails
        _, next_one = compute.submit(2)
        model.gate.set()
        assert (await next_one).status == job.status == 200

    run(main())
    assert compute.tally.ongoing == 0


def test_the_event_loop_is_free_while_the_model_works(compute: Calls, model: Held) -> None:
    async def main() -> bytes:
        call = await compute.busy()
        ran = asyncio.Event()
        asyncio.get_running_loop().call_later(0.01, ran.set)
        await asyncio.wait_for(ran.wait(), SECONDS)
        assert not call.done()
        model.gate.set()
        return (await call).answer

    assert run(main()) == b"answer to 0"


def test_stop_finishes_the_calls_that_wait(compute: Calls, model: Held) -> None:
    async def main() -> list[bytes]:
        await compute.busy()
        calls = [compute.submit(20 + number)[1] for number in range(20)]
        stopping = asyncio.create_task(asyncio.to_thread(compute.thread.stop))
        model.gate.set()
        jobs = await asyncio.gather(*calls)
        await stopping
        return [job.answer for job in jobs]

    assert run(main()) == [b"answer to %d" % (20 + number) for number in range(20)]
    assert not compute.thread.is_alive()


def test_stop_ends_an_idle_thread(compute: Calls) -> None:
    assert compute.thread.is_alive()
    compute.thread.stop()
    assert not compute.thread.is_alive()


@limited(max_requests=4)
def test_a_flood_of_one_caller_leaves_room_and_turns_to_others(compute: Calls, model: Held) -> None:
    async def main() -> None:
        first = await compute.busy()
        flood = [compute.submit(number, source=b"flood")[1] for number in (1, 2, 3, 4)]
        other = compute.submit(5, source=b"other")[1]
        displaced = await flood[3]
        assert (displaced.status, displaced.retry_after) == (503, 1)
        assert (await compute(6, source=b"flood")).status == 503, "it has its share"
        third = compute.submit(7, source=b"third")[1]
        assert (await flood[2]).status == 503
        assert (await compute(8, source=b"other")).status == 503, "a third of four each, and one more"
        model.gate.set()
        assert [(await call).status for call in (first, *flood[:2], other, third)] == [200] * 5
        assert model.done == [0, 1, 5, 7, 2]

    run(main())
    assert compute.dropped == {"rejected": 4}
    assert compute.tally.ongoing == 0


@limited(max_bytes=20)
def test_a_flood_of_bytes_leaves_room_for_others(compute: Calls, model: Held) -> None:
    async def main() -> None:
        first = await compute.busy()
        flood = [compute.submit(str(number).rjust(9), source=b"flood")[1] for number in (1, 2)]
        other = compute.submit("3".rjust(5), source=b"other")[1]
        assert (await flood[1]).status == 503
        assert (await compute("4".rjust(30), source=b"third")).status == 503, "it would not fit at all"
        model.gate.set()
        assert [(await call).status for call in (first, flood[0], other)] == [200] * 3

    run(main())
