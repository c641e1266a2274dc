"""Which calls make a batch, when it runs, and that each caller gets its own rows; with real threads."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.codec.call import IN_JSON, Call
from gateway.engine.batching import Batcher, Item, NotRowWise, item_of, join_inputs, obstacle, split_outputs
from gateway.engine.jobs import Job
from gateway.engine.thread import ComputeThread
from gateway.metrics.tally import Tally
from gateway.serving import DEFAULT_LIMITS, Batching, QueueLimits
from runtimes.base import Array, Resources, Signature, TensorModel, TensorSpec
from runtimes.errors import ExecutionError, InputError
from runtimes.onnx import OnnxRuntime
from tests.support.model_files import chunk, identity_onnx, node, number, onnx_model, value_info

SECONDS = 10
ROW = TensorSpec("x", "FP64", (-1, -1))
DELAY = 0.002


class PreparedCodec:
    """A codec for calls that a test makes itself: a body is a name, an answer is left in `outputs`."""

    def __init__(self, calls: Mapping[bytes, Call]) -> None:
        self._calls = calls
        self.outputs: dict[bytes, dict[str, Array]] = {}

    def decode(self, job: Job) -> Call:
        call = self._calls[_name(job)]
        if not call.inputs:
            raise InputError("no inputs")
        return call

    def encode(self, job: Job, call: Call, outputs: Mapping[str, Array]) -> None:
        assert list(outputs) == list(call.outputs or outputs)
        self.outputs[_name(job)] = {name: array.copy() for name, array in outputs.items()}

    def error(self, job: Job, status: int, message: str) -> None:
        job.answer = message.encode()


def _name(job: Job) -> bytes:
    return bytes(job.body[0])


class Doubling:
    """`y = 2 x` and the number of each row, after a gate; refuses 13, fails on 14."""

    platform = "test_doubling"
    device = "cpu"
    signature = Signature((ROW,), (TensorSpec("y", "FP64", (-1, -1)), TensorSpec("n", "INT64", (-1,))))

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.gate = threading.Event()
        self.runs: list[tuple[int, ...]] = []
        self.seconds = 0.0

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        self.begun.set()
        assert self.gate.wait(SECONDS)
        time.sleep(self.seconds)
        x = inputs["x"]
        self.runs.append(x.shape)
        if (x == 13).any():
            raise InputError("13 is no number")
        if (x == 14).any():
            raise ExecutionError("14 is unlucky")
        results = {"y": 2 * x, "n": np.arange(len(x))}
        return {name: results[name] for name in outputs or results}

    def close(self) -> None:
        pass


def array(rows: int, columns: int, value: float) -> Array:
    return value + np.arange(rows * columns).reshape(rows, columns) / 1000


def call(rows: int = 1, columns: int = 2, value: float = 1.0, outputs: Sequence[str] = ()) -> Call:
    return Call("", {"x": array(rows, columns, value)}, dict.fromkeys(outputs, IN_JSON))


def run(
    model: TensorModel,
    calls: Sequence[Call],
    batching: Batching,
    during: Callable[[list[Job]], None] | None = None,
    limits: QueueLimits = DEFAULT_LIMITS,
    timeouts: Mapping[int, float] | None = None,
) -> tuple[list[Job], list[dict[str, Array] | None], Tally, ComputeThread]:
    """Give calls to a thread while its model is at work on another one; returns what each got."""
    tally = Tally()
    thread = ComputeThread(model, tally, limits, batching=batching)
    codec = PreparedCodec({b"%d" % place: each for place, each in enumerate(calls)} | {b"first": call()})

    async def main() -> list[Job]:
        loop = asyncio.get_running_loop()
        answers: list[asyncio.Future[Job]] = []

        def submit(body: bytes, timeout: float) -> Job:
            future: asyncio.Future[Job] = loop.create_future()
            job = Job([body], codec, loop, future.set_result, timeout=timeout)
            answers.append(future)
            thread.submit(job)
            return job

        if isinstance(model, Doubling):
            submit(b"first", SECONDS)
            assert await asyncio.to_thread(model.begun.wait, SECONDS)
        jobs = [submit(b"%d" % place, (timeouts or {}).get(place, SECONDS)) for place in range(len(calls))]
        if during is not None:
            during(jobs)
        if isinstance(model, Doubling):
            model.gate.set()
        expected = [
            answer for answer, job in zip(answers[-len(jobs) :], jobs, strict=True) if not job.is_cancelled
        ]
        await asyncio.wait_for(asyncio.gather(*expected, *answers[: -len(jobs)]), SECONDS)
        return jobs

    jobs = asyncio.run(main())
    thread.stop()
    assert not thread.is_alive()
    assert (thread.queued, tally.ongoing) == (0, 0)
    return jobs, [codec.outputs.get(b"%d" % place) for place in range(len(calls))], tally, thread


def check(outputs: dict[str, Array] | None, request: Call) -> None:
    assert outputs is not None
    if "y" in outputs:
        np.testing.assert_array_equal(outputs["y"], 2 * request.inputs["x"])
    if "n" in outputs:
        assert len(outputs["n"]) == len(request.inputs["x"])


def test_what_waits_runs_together_and_each_caller_gets_its_rows() -> None:
    model = Doubling()
    calls = [call(rows=1 + place % 3, value=place) for place in range(8)]
    jobs, results, tally, _ = run(model, calls, Batching(32, DELAY))
    for each, request, job in zip(results, calls, jobs, strict=True):
        check(each, request)
        assert job.status == 200
        assert min(job.queue_seconds, job.decode_seconds, job.infer_seconds, job.encode_seconds) > 0
    assert model.runs == [(1, 2), (15, 2)]
    assert {rows: runs.runs for rows, runs in tally.numbers().batches.items()} == {1: 1, 15: 1}
    assert tally.numbers().succeeded.calls == 9


def test_calls_differ_in_nothing_but_their_rows() -> None:
    model = Doubling()
    calls = [call(), call(columns=3), call(outputs=["y"]), call(outputs=["y", "n"]), call(outputs=["n", "y"])]
    calls += [Call("", {"x": array(1, 2, 1).astype(np.float32)}), call(value=2)]
    _, results, _, _ = run(model, calls, Batching(32, DELAY))
    for each, request in zip(results, calls, strict=True):
        check(each, request)
    # all outputs; three columns; y; y and n in either order; FP32
    assert sorted(model.runs[1:]) == sorted([(2, 2), (1, 3), (1, 2), (2, 2), (1, 2)])
    assert results[5] is not None
    assert results[5]["y"].dtype == np.float32


def test_a_batch_has_no_more_rows_than_it_may_but_a_larger_call_is_answered() -> None:
    model = Doubling()
    calls = [call(rows=rows, value=rows) for rows in (2, 2, 1, 9, 1, 3, 1)]
    _, results, _, _ = run(model, calls, Batching(4, DELAY))
    for each, request in zip(results, calls, strict=True):
        check(each, request)
    assert [shape[0] for shape in model.runs[1:]] == [4, 1, 9, 4, 1]


def test_calls_without_rows_run_alone() -> None:
    model = Doubling()
    calls = [call(rows=0), call(rows=0), Call("", {"x": np.ones(())}), call()]
    jobs, _, _, _ = run(model, calls, Batching(32, DELAY))
    assert [job.status for job in jobs[:2]] == [200, 200]
    assert jobs[3].status == 200
    assert {(0, 2), (1, 2)} <= set(model.runs)


def test_one_bad_call_fails_alone() -> None:
    model = Doubling()
    calls = [call(value=1), call(value=13), call(value=14), Call("", {}), call(value=2)]
    jobs, results, tally, _ = run(model, calls, Batching(32, DELAY))
    assert [job.status for job in jobs] == [200, 400, 500, 400, 200]
    assert [job.answer for job in jobs[1:4]] == [b"13 is no number", b"14 is unlucky", b"no inputs"]
    check(results[0], calls[0])
    check(results[4], calls[4])
    assert tally.numbers().failed.calls == 3
    assert model.runs[1:] == [(4, 2), (1, 2), (1, 2), (1, 2), (1, 2)], "together, then each alone"


def test_who_hangs_up_or_is_late_leaves_the_batch() -> None:
    model = Doubling()

    def during(jobs: list[Job]) -> None:
        jobs[1].cancel()
        time.sleep(0.03)
        model.gate.set()
        time.sleep(0.05)  # the loop stands still, so that only the thread sees who is late

    calls = [call(value=place) for place in range(4)]
    jobs, results, tally, _ = run(model, calls, Batching(32, DELAY), during, timeouts={2: 0.01})
    assert results[1] is results[2] is None
    assert [job.status for job in jobs if not job.is_cancelled] == [200, 504, 200]
    assert model.runs[1:] == [(2, 2)]
    assert dict(tally.numbers().dropped) == {"cancelled": 1, "expired": 1}


class Summing(Doubling):
    """Gives one row for all of its input, whatever its signature says."""

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        super().infer(inputs)
        return {"y": inputs["x"].sum(0, keepdims=True), "n": np.zeros(1, np.int64)}


def test_a_model_that_is_none_to_batch_is_batched_no_more() -> None:
    model = Summing()
    calls = [call(columns=2 + place % 2, value=place) for place in range(9)]
    jobs, results, _, thread = run(model, calls, Batching(4, DELAY))
    assert [job.status for job in jobs] == [200] * 9
    for each, request in zip(results, calls, strict=True):
        assert each is not None
        np.testing.assert_array_equal(each["y"], request.inputs["x"])
    assert thread.not_batched == "output 'y' has shape [1, 2] for 4 rows of input"
    assert [shape[0] for shape in model.runs[1:]] == [4, *[1] * 9], (
        "also those of another kind that wait already"
    )


@pytest.mark.parametrize(
    ("signature", "reason"),
    [
        (Signature((ROW,), (ROW,)), ""),
        (Signature((ROW,), ()), "the model does not say what its outputs are"),
        (
            Signature((ROW, TensorSpec("k", "INT64", (4,))), (ROW,)),
            "input 'k' has shape [4], and its first dimension is not -1, so it has no batch axis",
        ),
        (
            Signature((ROW,), (TensorSpec("y", "FP32", ()),)),
            "output 'y' has shape [], and its first dimension is not -1, so it has no batch axis",
        ),
        (
            Signature((ROW,), (TensorSpec("y", "FP32", None),)),
            "output 'y' has no known rank, so it has no batch axis",
        ),
        (
            Signature((ROW,), (ROW,), on_request=(TensorSpec("z", "FP32", (3,)),)),
            "output 'z' has shape [3], and its first dimension is not -1, so it has no batch axis",
        ),
    ],
)
def test_only_models_with_a_batch_axis_are_batched(signature: Signature, reason: str) -> None:
    assert obstacle(signature) == reason

    class Model(Doubling):
        pass

    model = Model()
    model.signature = signature
    model.gate.set()
    thread = ComputeThread(model, Tally(), batching=Batching(8, DELAY))
    assert (thread.not_batched, thread.batching) == (reason, None if reason else Batching(8, DELAY))
    thread.stop()


def test_rows_that_do_not_add_up_are_no_batch() -> None:
    items = [item_of(_job(0.0), call(rows=2)), item_of(_job(0.0), call(rows=1))]
    assert join_inputs(items)["x"].shape == (3, 2)
    with pytest.raises(NotRowWise, match=r"output 'y' has shape \[\] for 3 rows"):
        split_outputs({"y": np.zeros(())}, items)
    with pytest.raises(NotRowWise, match=r"output 'y' has shape \[2, 2\] for 3 rows"):
        split_outputs({"y": np.zeros((2, 2))}, items)


Fate = tuple[int, int, str, str]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(1, 5),
            st.integers(1, 3),
            st.sampled_from(["", "y", "n", "yn"]),
            st.sampled_from(["good"] * 6 + ["bad", "undecodable", "cancelled"]),
        ),
        min_size=1,
        max_size=25,
    ),
    st.integers(2, 12),
    st.sampled_from([0.0, 0.001]),
)
def test_whatever_comes_each_caller_gets_exactly_its_own(
    fates: list[Fate], max_rows: int, delay: float
) -> None:
    model = Doubling()
    calls = []
    for place, (rows, columns, outputs, fate) in enumerate(fates):
        value = 13.0 if fate == "bad" else 100.0 + place
        calls.append(call(rows, columns, value, outputs) if fate != "undecodable" else Call("", {}))

    def during(jobs: list[Job]) -> None:
        for job, (*_, fate) in zip(jobs, fates, strict=True):
            if fate == "cancelled":
                job.cancel()

    jobs, results, tally, _ = run(model, calls, Batching(max_rows, delay), during)
    for job, each, one, (_, _, outputs, fate) in zip(jobs, results, calls, fates, strict=True):
        if fate == "good":
            assert job.status == 200
            check(each, one)
            assert each is not None
            assert list(each) == list(outputs or "yn")
        elif fate == "cancelled":
            assert job.is_cancelled
        else:
            assert (job.status, each) == (400, None)
    counted = tally.numbers()
    good = sum(rows for rows, *_, fate in fates if fate == "good")
    assert sum(runs.rows for runs in counted.batches.values()) == 1 + good


def test_no_kind_of_call_starves_under_load() -> None:
    """One odd call among a stream of others that always fills batches is answered in its turn."""
    batcher = Batcher(Batching(4, 1.0))
    for place in range(8):
        batcher.add(item_of(_job(place), call()))
    odd = item_of(_job(8), call(columns=3))
    batcher.add(odd)
    clock = 9.0
    turns = []
    while odd not in (batch := batcher.take()):
        turns.append(len(batch))
        for _ in range(8):
            batcher.add(item_of(_job(clock), call()))
            clock += 1
    assert turns == [4, 4]
    assert batch == [odd]


# When to wait: estimates of what others do, with times that are made up.


LOOP = asyncio.new_event_loop()
LOOP.close()


def _job(arrived: float) -> Job:
    job = Job([b""], PreparedCodec({}), LOOP, lambda _: None)
    job.arrived = arrived
    return job


class Pace:
    """A batcher that has seen `callers` come again and again, `gap` apart, while the model ran for `run`."""

    def __init__(
        self, callers: int, gap: float, run: float, max_rows: int = 32, delay: float = DELAY
    ) -> None:
        self.batcher = Batcher(Batching(max_rows, delay))
        self.now = 100.0
        for _ in range(50):
            for _ in range(callers):
                self.add(gap)
            while self.batcher:
                self.batcher.note_run(len(self.batcher.take()), len(self.batcher), run)

    def add(self, gap: float) -> Item:
        self.now += gap
        item = item_of(_job(self.now), call())
        self.batcher.add(item)
        return item

    @property
    def pause(self) -> float:
        return self.batcher.pause(self.now)


def test_a_single_caller_never_waits() -> None:
    pace = Pace(callers=1, gap=0.0001, run=0.005)
    assert pace.batcher.is_idle
    pace.add(0.005)
    assert pace.pause == 0


def test_the_first_of_many_callers_waits_for_the_others_but_not_the_last() -> None:
    pace = Pace(callers=4, gap=0.0001, run=0.005)
    assert not pace.batcher.is_idle
    for _ in range(3):
        pace.add(0.0001)
        assert 0 < pace.pause <= DELAY
    pace.add(0.0001)
    assert pace.pause == 0, "everybody is here"


def test_nobody_waits_where_calls_come_slower_than_the_model_is() -> None:
    pace = Pace(callers=4, gap=0.001, run=0.0005)
    pace.add(0.001)
    assert pace.pause == 0


def test_the_oldest_call_waits_no_longer_than_it_may() -> None:
    pace = Pace(callers=30, gap=0.0004, run=0.05)
    first = pace.add(0.0004)
    waited = []
    while (pause := pace.pause) > 0:
        waited.append(pace.now + pause - first.job.arrived)
        pace.add(0.0004)
    assert max(waited) == pytest.approx(DELAY)
    assert pace.now - first.job.arrived <= DELAY + 0.0004


def test_waiting_ends_when_the_others_do_not_come() -> None:
    pace = Pace(callers=4, gap=0.0001, run=0.005)
    pace.add(0.0001)
    assert pace.pause <= 0.0006, "a few of the usual gaps, not all of the delay"


def test_callers_who_left_are_soon_no_longer_waited_for() -> None:
    pace = Pace(callers=4, gap=0.0001, run=0.005)
    waits = 0
    pace.add(0.005)
    while pace.pause:
        waits += 1
        pace.batcher.note_run(len(pace.batcher.take()), 0, 0.005)
        pace.add(0.005)
    assert 0 < waits < 20


def test_without_a_delay_nobody_waits() -> None:
    pace = Pace(callers=4, gap=0.0001, run=0.005, delay=0)
    pace.add(0.0001)
    assert pace.pause == 0


def test_a_single_caller_is_as_fast_as_without_batching() -> None:
    def one_by_one(batching: Batching | None) -> float:
        model = Doubling()
        model.gate.set()
        thread = ComputeThread(model, Tally(), batching=batching)
        codec = PreparedCodec({b"0": call()})

        async def main() -> float:
            loop = asyncio.get_running_loop()
            begun = time.perf_counter()
            for _ in range(200):
                answered: asyncio.Future[Job] = loop.create_future()
                thread.submit(Job([b"0"], codec, loop, answered.set_result))
                await asyncio.wait_for(answered, SECONDS)
            return time.perf_counter() - begun

        took = asyncio.run(main())
        thread.stop()
        return took

    delay = 0.02
    assert one_by_one(Batching(32, delay)) < 200 * delay / 4


# Real models.


def _linear() -> bytes:
    """`y = softmax(x w)` of 4 columns into 3."""
    weights = number(1, 4) + number(1, 3) + number(2, 1) + chunk(8, "w")
    raw = np.linspace(-1, 1, 12, dtype=np.float32).tobytes()
    return onnx_model(
        [node("MatMul", ["x", "w"], ["s"]), node("Softmax", ["s"], ["y"])],
        [value_info("x", 1, ("n", 4))],
        [value_info("y", 1, ("n", 3))],
        [weights + chunk(9, raw)],
    )


@pytest.mark.parametrize(
    ("model", "exact"),
    [(_linear(), False), (identity_onnx(shape=("n", 4)), True)],
    ids=["linear", "identity"],
)
def test_real_models_answer_as_they_do_alone(tmp_path: Path, model: bytes, exact: bool) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(model)
    loaded = OnnxRuntime().load(path, Resources())
    calls = [
        Call("", {"x": np.random.default_rng(place).normal(size=(1 + place % 4, 4)).astype(np.float32)})
        for place in range(60)
    ]
    jobs, results, tally, _ = run(loaded, calls, Batching(16, DELAY))
    assert [job.status for job in jobs] == [200] * 60
    for each, request in zip(results, calls, strict=True):
        assert each is not None
        alone = loaded.infer(request.inputs)["y"]
        if exact:
            np.testing.assert_array_equal(each["y"], alone)
        else:
            np.testing.assert_allclose(each["y"], alone, rtol=1e-6)
    assert max(tally.numbers().batches) > 4, "there were batches"


def test_strings_run_together(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(identity_onnx(element=8, shape=("n",)))
    loaded = OnnxRuntime().load(path, Resources())
    calls = [Call("", {"x": np.array([b"%d" % place] * 2, dtype=object)}) for place in range(20)]
    _, results, _, _ = run(loaded, calls, Batching(64, DELAY))
    got: list[Any] = [each and each["y"].tolist() for each in results]
    assert got == [[b"%d" % place] * 2 for place in range(20)]
