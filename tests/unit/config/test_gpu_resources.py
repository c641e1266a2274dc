"""What a config says of GPUs, and what Ray reserves for it."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from gateway.config.models import Model
from gateway.control.loop.ray_serve import actor_options
from runtimes.base import Resources

GIB = 1 << 30


def resources(**written: Any) -> Resources:
    model = Model.model_validate({"name": "iris", "kit": "kit:samples/iris:v1", "resources": written})
    return model.serving().resources


@pytest.mark.parametrize(
    ("written", "wants_gpu", "may_use_cpu", "pinned", "reserved"),
    [
        ({}, False, True, (), 0),
        ({"device": "cpu"}, False, True, (), 0),
        ({"gpus": 0.5}, True, False, (), 0.5),
        ({"gpus": 2, "accelerator": "H100"}, True, False, (), 2),
        ({"gpus": 1, "gpu_memory": "6GiB"}, True, False, (), 1),
        ({"gpu_memory": "6GiB"}, True, False, (), 0),
        ({"device": "gpu"}, True, False, (), 0),
        ({"device": "prefer-gpu"}, True, True, (), 0),
        ({"device": "prefer-gpu", "gpus": 1}, True, True, (), 0),
        ({"device": 1}, True, False, ("1",), 0),
        ({"device": "0, GPU-4f2a", "gpus": 2}, True, False, ("0", "GPU-4f2a"), 0),
        ({"device": "MIG-1c5e-07"}, True, False, ("MIG-1c5e-07",), 0),
    ],
)
def test_what_computes_a_model(
    written: dict[str, Any], wants_gpu: bool, may_use_cpu: bool, pinned: tuple[str, ...], reserved: float
) -> None:
    value = resources(**written)
    assert (value.wants_gpu, value.may_use_cpu) == (wants_gpu, may_use_cpu)
    assert (value.pinned, value.reserved_gpus) == (pinned, reserved)


@pytest.mark.parametrize(
    ("written", "fault"),
    [
        ({"device": "cpu", "gpus": 1}, "cpu, although `gpus` asks for a GPU"),
        ({"device": "cpu", "gpu_memory": "6GiB"}, "cpu, although `gpu_memory` asks for a GPU"),
        ({"device": "cuda:0"}, "'cuda:0' is no device: cpu, gpu, prefer-gpu, or GPUs by index or UUID"),
        ({"device": "0,0"}, "is no device"),
        ({"device": "0,1", "gpus": 1}, "names 2 and `gpus` says 1"),
        ({"accelerator": "H100"}, "none is asked for"),
        ({"gpu_memory": "1MiB"}, "greater than or equal"),
    ],
)
def test_what_cannot_be_meant_is_refused(written: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        resources(**written)


def test_ray_reserves_gpus_for_workers_that_are_not_placed_by_memory() -> None:
    assert actor_options(Resources(2, 0.5), reserve_cpus=True) == {"num_cpus": 2, "num_gpus": 0.5}
    assert actor_options(Resources(gpu_memory=6 * GIB), reserve_cpus=False) == {
        "num_cpus": 0,
        "num_gpus": 0.0,
    }
    labelled = actor_options(Resources(gpus=1, accelerator="H100"), reserve_cpus=False)
    assert labelled == {"num_cpus": 0, "num_gpus": 1, "accelerator_type": "H100"}
