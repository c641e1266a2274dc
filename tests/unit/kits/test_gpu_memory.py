"""What a model takes of a GPU: by its files, by its config, or as it was measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from gateway.kits.gpu_memory import activation_bytes, gpu_demand, weight_bytes
from gateway.kits.memory import Need
from loadtests.gpu_estimates import compare, write_network
from runtimes.base import Resources, Signature, TensorSpec
from runtimes.engines.base import Memory

GIB = 1 << 30
NEED = Need(Memory(8 * GIB, GIB), slots=4, context=8192)


def write_external(path: Path, location: str) -> None:
    """Write an ONNX model with 100 numbers in another file."""
    numbers = numpy_helper.from_array(np.zeros(100, np.float32), "w")
    given = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [100]) for name in "xy"]
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])], "graph", given[:1], given[1:], [numbers]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path, save_as_external_data=True, location=location, size_threshold=0)


def stating(path: Path, location: str) -> bytes:
    """Return a model that says that its numbers are elsewhere."""
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    content: bytes = model.SerializeToString()
    return content


@pytest.mark.parametrize("location", ["m.onnx.data", "weights", "parts/w.bin"])
def test_weights_of_an_onnx_model_are_also_where_it_says_that_they_are(location: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    (tmp_path / "parts").mkdir()
    write_external(path, location)
    for name in ("m.onnx.txt", "other.data", "parts/other"):
        (tmp_path / name).write_bytes(bytes(1000))
    assert weight_bytes(path) == path.stat().st_size + 4 * 100


@pytest.mark.parametrize("location", ["../outside", "gone", "", "parts", "x" * 5000])
def test_what_is_no_file_below_the_model_counts_nothing(location: str, tmp_path: Path) -> None:
    path = tmp_path / "kit" / "m.onnx"
    (tmp_path / "kit" / "parts").mkdir(parents=True)
    (tmp_path / "outside").write_bytes(bytes(1000))
    write_external(path, "w")
    path.write_bytes(stating(path, location))
    assert weight_bytes(path) == path.stat().st_size


def test_weights_are_those_of_the_files(tmp_path: Path) -> None:
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
