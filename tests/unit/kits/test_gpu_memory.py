"""What a model takes of a GPU: by its files, by its config, or as it was measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.kits.gpu_memory import activation_bytes, gpu_demand, weight_bytes
from gateway.kits.memory import Need
from loadtests.gpu_estimates import compare, write_network
from runtimes.base import Resources, Signature, TensorSpec
from runtimes.engines.base import Memory

GIB = 1 << 30
NEED = Need(Memory(8 * GIB, GIB), slots=4, context=8192)


def test_weights_are_those_of_the_files(tmp_path: Path) -> None:
    for name, size in (("m.onnx", 10), ("m.onnx.data", 100), ("other.txt", 1000)):
        (tmp_path / name).write_bytes(bytes(size))
    assert weight_bytes(tmp_path / "m.onnx") == 110
    parts = tmp_path / "parts"
    parts.mkdir()
    for name in ("model-1.safetensors", "model-2.safetensors", "config.json"):
        (parts / name).write_bytes(bytes(10))
    (parts / "model.safetensors.index.json").write_bytes(bytes(1))
    assert weight_bytes(parts / "model.safetensors.index.json") == 21


def test_activations_grow_with_the_batch() -> None:
    image = TensorSpec("image", "FP32", (-1, 3, 8, 8))
    classes = TensorSpec("classes", "FP32", (-1, 10))
    one = activation_bytes(Signature((image,), (classes,)), 1)
    assert one == 14 * 4 * (3 * 8 * 8 + 10)
    assert activation_bytes(Signature((image,), (classes,)), 32) == 32 * one


def test_the_config_counts_before_what_was_measured_and_that_before_the_files() -> None:
    written = gpu_demand(Resources(gpu_memory=6 * GIB), NEED, 5 * GIB)
    assert (written.size, written.terms, written.is_whole) == (6 * GIB, "6.0 GiB (`gpu_memory`)", False)
    measured = gpu_demand(Resources(device="gpu"), NEED, 5 * GIB)
    assert (measured.size, measured.terms) == (5 * GIB, "5.0 GiB (as measured)")
    estimated = gpu_demand(Resources(device="gpu"), NEED, None)
    assert estimated.size == 9 * GIB
    assert estimated.terms == ("9.0 GiB: 8.0 GiB weights + 1.0 GiB key-value cache (4 slots of 8192 tokens)")
    unknown = gpu_demand(Resources(device="gpu"), None, None)
    assert unknown.size is None


def test_several_gpus_share_a_model_and_whole_ones_are_nobody_elses() -> None:
    pinned = gpu_demand(Resources(device="0,1"), NEED, None)
    assert (pinned.size, pinned.names, pinned.is_whole) == (4.5 * GIB, ("0", "1"), False)
    whole = gpu_demand(Resources(gpus=2), NEED, None)
    assert (whole.size, whole.is_whole) == (4.5 * GIB, True)


@pytest.mark.parametrize("rows", [1, 32])
@pytest.mark.parametrize("name", ["densenet121", "shufflenet", "squeezenet"])
def test_real_models_take_about_what_is_estimated(name: str, rows: int, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    write_network(name, path)
    comparison = compare(name, path, rows)
    assert abs(comparison.error) < 0.2, comparison
