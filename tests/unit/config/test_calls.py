from __future__ import annotations

import pytest

from gateway.config.calls import Batching, Queue
from gateway.config.config import parse_config
from gateway.config.models import Model
from gateway.errors import ConfigError
from runtimes.base import Signature, TensorSpec

IRIS = "models:\n  - name: iris\n    kit: registry.test/team/iris:v1\n"


def iris(written: str) -> Model:
    (model,) = parse_config(f"{IRIS}    {written}\n").models
    return model


def test_calls_run_one_by_one_and_are_bounded_where_nothing_is_written() -> None:
    model = iris("runtime: auto")
    assert model.batching is None
    assert (model.queue.max_requests, model.queue.max_bytes) == (512, 256 * 1024 * 1024)
    assert model.timeout == 60


@pytest.mark.parametrize(
    ("written", "size", "delay"),
    [
        ("{}", 32, 0.002),
        ("{max_batch_size: 2}", 2, 0.002),
        ("{max_delay: 0}", 32, 0),
        ("{max_batch_size: 1024, max_delay: 500us}", 1024, 0.0005),
        ("{max_delay: 0.25}", 32, 0.25),
        ("{max_delay: 1s}", 32, 1),
    ],
)
def test_batching(written: str, size: int, delay: float) -> None:
    assert iris(f"batching: {written}").batching == Batching(max_batch_size=size, max_delay=delay)


def test_queue_and_timeout() -> None:
    assert iris("queue: {max_requests: 8}").queue == Queue(max_requests=8)
    assert iris("queue: {max_bytes: 2MiB}").queue.max_bytes == 2 * 1024 * 1024
    assert iris("timeout: 250ms").timeout == 0.25
    assert iris("timeout: 75").timeout == 75


@pytest.mark.parametrize(
    ("written", "fault"),
    [
        (
            "batching: {max_batch_size: 1}",
            "batching.max_batch_size: must be at least 2, not 1",
        ),
        (
            "batching: {max_batch_size: 1025}",
            "batching.max_batch_size: must be at most 1024, not 1025",
        ),
        ("batching: {max_delay: -1}", "batching.max_delay: must be at least 0, not -1"),
        ("batching: {max_delay: 11s}", "batching.max_delay: must be at most 10, not "),
        ("batching: {max_delay: 2 ms}", "batching.max_delay: '2 ms' is not a duration, such as 500ms"),
        ("batching: {max_dely: 1}", "batching.max_dely: unknown field; did you mean 'max_delay'?"),
        ("batching: true", "batching: write {max_batch_size: 32, max_delay: 2ms}, or leave it out"),
        ("queue: {max_requests: 0}", "queue.max_requests: must be at least 1, not 0"),
        ("queue: {max_bytes: 1KiB}", "queue.max_bytes: must be at least 1MiB, not "),
        ("queue: {max_size: 1}", "queue.max_size: unknown field; known here: max_requests, max_bytes"),
        ("timeout: 0", "timeout: must be more than 0, not 0"),
        ("timeout: 2m", "timeout: the edge gives up a call after 75 s; no call can wait longer"),
    ],
)
def test_faults_are_named(written: str, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        iris(written)
    (line,) = caught.value.faults
    assert line.startswith(f"line 4: models[0].{fault}")


def test_inputs_and_outputs_may_be_stated() -> None:
    model = iris(
        "inputs: [{name: ids, datatype: INT64, shape: [-1, 8]}, {name: mask, datatype: BOOL}]\n"
        "    outputs: [{name: output_0, datatype: FP16, shape: []}]"
    )
    assert model.serving().stated == Signature(
        (TensorSpec("ids", "INT64", (-1, 8)), TensorSpec("mask", "BOOL")),
        (TensorSpec("output_0", "FP16", ()),),
    )
    assert iris("runtime: auto").serving().stated == Signature((), ())


@pytest.mark.parametrize(
    ("written", "fault"),
    [
        ("inputs: [{name: x}]", "inputs[0].datatype"),
        ("inputs: [{name: x, datatype: float}]", "inputs[0].datatype"),
        ("outputs: [{name: x, datatype: FP32, shape: [-2]}]", "a shape has at most 16 axes, each 0 or more"),
        (
            "inputs: [{name: x, datatype: FP32}, {name: x, datatype: FP16}]",
            "inputs[1].name: 'x' is written above",
        ),
    ],
)
def test_what_cannot_be_a_tensor_is_a_fault(written: str, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        iris(written)
    assert fault in str(caught.value)
