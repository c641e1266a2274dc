"""Claimed calls are decoded, run and encoded, alone or in a batch; whatever fails becomes an answer."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence

from gateway.codec.call import Call
from gateway.engine.answers import OVERRAN, Answers
from gateway.engine.batching import Item, NotRowWise, join_inputs, rows_of, split_outputs
from gateway.engine.beat import Beat
from gateway.engine.device import DeviceHealth
from gateway.engine.job_spans import record_batch
from gateway.engine.jobs import Job
from gateway.errors import Overrun, Replaced
from gateway.metrics.tally import Tally
from runtimes.base import Array, TensorModel
from runtimes.errors import DeviceLost, DeviceOutOfMemory, ExecutionError, Interrupted
from runtimes.unfit import unfit_input

_MICROSECONDS = 1_000_000
_OK = 200

log = logging.getLogger(__name__)


class Execution:
    """Runs one model on calls. `names` are what the log calls the version.

    Runs are counted by their rows where the model is one that may be batched. `device` is told what the runs
    say of the model's GPU; None where it computes on the CPU.
    """

    def __init__(
        self,
        model: TensorModel,
        tally: Tally,
        answers: Answers,
        names: Mapping[str, str],
        counts_runs: bool = False,
        device: DeviceHealth | None = None,
    ) -> None:
        self._model = model
        self._tally = tally
        self._answers = answers
        self._names = names
        self._counts_runs = counts_runs
        self._device = device
        self.beat = Beat()

    def run_single(self, job: Job) -> float:
        """Answer one call; returns the time at the end."""
        started = time.perf_counter()
        beat = self.beat
        beat.work, beat.since = job, started
        decoded = inferred = 0.0
        job.queue_seconds = started - job.arrived
        try:
            call = job.codec.decode(job)
            decoded = time.perf_counter()
            if call.timeout_us:
                limit_wait(job, call.timeout_us)
            if decoded > job.deadline:
                self._answers.expire(job, decoded)
                beat.since = 0.0
                return decoded
            outputs = self._infer(call.inputs, call)
            inferred = time.perf_counter()
            job.codec.encode(job, call, outputs)
            job.status = _OK
        except Exception as failure:
            self._answers.fail(job, failure)
        beat.since = 0.0
        finished = time.perf_counter()
        # The step that failed lasted until now.
        decoded = decoded or finished
        inferred = inferred or finished
        job.decode_seconds, job.infer_seconds = decoded - started, inferred - decoded
        job.encode_seconds = finished - inferred
        if self._counts_runs and job.status == _OK:
            self._tally.executed(rows_of(call), job.decode_seconds, job.infer_seconds, job.encode_seconds)
        return finished

    def run_batch(self, items: Sequence[Item]) -> None:
        """Answer decoded calls with one run of the model, or one by one where that fails.

        Raises:
            NotRowWise: when the model cannot be batched; the calls are answered all the same.
        """
        if len(items) == 1:
            self._run_item(items[0])
            return
        started = time.perf_counter()
        not_row_wise: NotRowWise | None = None
        self.beat.work, self.beat.since = items, started
        try:
            outputs = self._infer(join_inputs(items), items[0].call, is_alone=False)
            parts = split_outputs(outputs, items)
        except NotRowWise as error:
            not_row_wise = error
        except Overrun as failure:
            # Each has waited longer than it may, whichever of them it was.
            self._fail_all(items, failure, started)
            return
        except DeviceLost as failure:
            # One of them may be to blame; the others are answered by another worker.
            self._fail_all(items, Replaced(f"{failure}; ask again"), started)
            return
        except DeviceOutOfMemory:
            self._run_halves(items)
            return
        except Exception:
            # When each is run alone, it shows which of them fails.
            log.debug("batch.failed", exc_info=True, extra=dict(self._names))
        else:
            self._encode(items, parts, started, time.perf_counter())
            self.beat.end()
            return
        for item in items:
            self._run_item(item)
        if not_row_wise is not None:
            raise not_row_wise

    def _run_halves(self, items: Sequence[Item]) -> None:
        """Answer the calls of a batch that was too large with two runs. Raises NotRowWise."""
        middle = len(items) // 2
        not_row_wise: NotRowWise | None = None
        for half in (items[:middle], items[middle:]):
            try:
                self.run_batch(half)
            except NotRowWise as error:
                not_row_wise = error
        if not_row_wise is not None:
            raise not_row_wise

    def _run_item(self, item: Item) -> None:
        started = time.perf_counter()
        self.beat.work, self.beat.since = (item,), started
        try:
            outputs = self._infer(item.call.inputs, item.call)
        except Exception as failure:
            self._fail_all((item,), failure, started)
        else:
            self._encode((item,), (outputs,), started, time.perf_counter())
            self.beat.end()

    def _fail_all(self, items: Sequence[Item], failure: Exception, started: float) -> None:
        """Answer the calls of a run that failed."""
        for item in items:
            job = item.job
            self._answers.fail(job, failure)
            job.queue_seconds = started - job.arrived - job.decode_seconds
            job.infer_seconds = time.perf_counter() - started
        self.beat.end()

    def _infer(self, inputs: Mapping[str, Array], call: Call, *, is_alone: bool = True) -> dict[str, Array]:
        """Run the model, and note what that says of its GPU, where it has one.

        `is_alone` says that it is one call's run.
        """
        device = self._device
        if device is None:
            return self._compute(inputs, call)
        if device.failure:
            raise Replaced(f"the worker is replaced: {device.failure}; ask again")
        try:
            outputs = self._compute(inputs, call)
        except Exception as failure:
            explained = device.explained(failure, inputs, is_alone=is_alone)
            if explained is None:
                raise
            raise explained from failure
        device.answered(inputs)
        return outputs

    def _compute(self, inputs: Mapping[str, Array], call: Call) -> dict[str, Array]:
        """Run the model; whatever it raises becomes an Exception, which ends a call and not the thread."""
        try:
            return self._model.infer(inputs, tuple(call.outputs))
        except Interrupted as failure:
            if not self.beat.is_overdue:
                # It was meant for the call before this one.
                return self._model.infer(inputs, tuple(call.outputs))
            raise Overrun(OVERRAN) from failure
        except ExecutionError as failure:
            unfit = unfit_input(failure, inputs, self._model.signature)
            if unfit is None:
                raise
            raise unfit from failure
        except Exception:
            raise
        except BaseException as failure:  # `sys.exit()`, and the panic of an engine that is written in Rust
            raise ExecutionError(f"the model gave up with {type(failure).__name__}") from failure

    def _encode(
        self, items: Sequence[Item], parts: Sequence[Mapping[str, Array]], started: float, inferred: float
    ) -> None:
        """Write the answers of one run of the model, and count it."""
        previous = inferred
        decoding = 0.0
        rows = 0
        is_traced = False
        for item, outputs in zip(items, parts, strict=True):
            job = item.job
            if not job.is_cancelled:
                try:
                    job.codec.encode(job, item.call, outputs)
                    job.status = _OK
                except Exception as failure:
                    self._answers.fail(job, failure)
            now = time.perf_counter()
            job.queue_seconds = started - job.arrived - job.decode_seconds
            job.infer_seconds, job.encode_seconds = inferred - started, now - previous
            previous = now
            decoding += job.decode_seconds
            rows += item.rows
            is_traced = is_traced or job.trace is not None
        self._tally.executed(rows, decoding, inferred - started, previous - inferred)
        if is_traced and len(items) > 1:
            record_batch([item.job for item in items], rows, started, inferred)


def limit_wait(job: Job, timeout_us: int) -> None:
    """Have a call wait no longer than its own parameter `timeout` says."""
    job.timeout = min(job.timeout, timeout_us / _MICROSECONDS)
    job.deadline = min(job.deadline, job.began + job.timeout)
