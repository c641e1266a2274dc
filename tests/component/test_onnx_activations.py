"""What ONNX models take for their activations, told by a child process before they are loaded."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from runtimes import onnx_activations
from runtimes.onnx import OnnxRuntime

KIB = 1024
ROWS, LENGTH = 4, 128


def write(
    path: Path, nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], axes: list[int | str]
) -> Path:
    given = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, axes)]
    answer = [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)]
    constants = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "graph", given, answer, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def activations(path: Path) -> int | None:
    return OnnxRuntime().activations(path, ROWS, LENGTH)


def test_all_that_is_between_input_and_output_counts_and_weights_do_not(tmp_path: Path) -> None:
    wide = np.zeros((64, 32 * KIB), np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "wide"], ["hidden"]),
        helper.make_node("Erf", ["hidden"], ["bent"]),
        helper.make_node("ReduceSum", ["bent"], ["y"], keepdims=0),
    ]
    path = write(tmp_path / "model.onnx", nodes, {"wide": wide}, ["rows", 64])
    hidden, given = ROWS * 32 * KIB * 4, ROWS * 64 * 4
    # Two tensors live at once, in a first call for themselves, later in a block.
    assert activations(path) == pytest.approx(4 * hidden + given, abs=KIB)


def test_an_axis_without_a_name_is_as_long_as_is_assumed(tmp_path: Path) -> None:
    nodes = [helper.make_node("Erf", ["x"], ["bent"]), helper.make_node("Erf", ["bent"], ["y"])]
    path = write(tmp_path / "model.onnx", nodes, {}, ["rows", None, 64])  # type: ignore[list-item]
    size = ROWS * LENGTH * 64 * 4
    # What is answered takes the place of the input, and the block that of the tensor between.
    assert activations(path) == 2 * size


def test_what_asks_for_more_than_there_is_ends_nobody_but_the_child(tmp_path: Path) -> None:
    huge = np.array([1 << 20, 1 << 20], np.int64)
    nodes = [
        helper.make_node("ConstantOfShape", ["huge"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["x", "sum"], ["y"]),
    ]
    assert activations(write(tmp_path / "model.onnx", nodes, {"huge": huge}, ["rows", 64])) in (
        None,
        2 * ROWS * 64 * 4,
    )


def test_what_takes_too_long_is_given_up_and_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "runtimes")
    nodes = [helper.make_node("Erf", ["x"], ["y"])]
    path = write(tmp_path / "model.onnx", nodes, {}, ["rows", 64])
    assert activations(path) is not None
    assert not caplog.records
    monkeypatch.setattr(onnx_activations, "_SECONDS", 0.0)
    assert activations(path) is None
    (record,) = caplog.records
    assert record.message == "activations.not_told"
    assert vars(record)["path"] == str(path)
    assert "took longer than 0 s" in vars(record)["reason"]


def test_what_is_written_with_constants_that_others_became_is_bounded(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Expand", ["one", "many"], ["ones"]),
        helper.make_node("Add", ["x", "ones"], ["y"]),
    ]
    constants: dict[str, np.ndarray] = {"one": np.ones(1, np.float32), "many": np.array([1 << 20], np.int64)}
    path = write(tmp_path / "model.onnx", nodes, constants, [1])
    assert activations(path) is not None
    program = (
        "import sys; from runtimes import onnx_activations as o; o._WRITTEN_BYTES = 1 << 20\n"
        "try: o.estimate([sys.argv[1], 1, 1])\n"
        "except o.LoadError as error: print(error)"
    )
    child = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True)
    assert "ONNX Runtime" in child.stdout, child.stderr


@pytest.mark.parametrize("content", [b"", b"\x08\x08", b"\x3a\xff\xff\xff\xff\x0f"])
def test_a_file_that_is_no_model_tells_nothing(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert activations(path) is None


def test_a_model_without_weights_beside_it_tells_its_shapes_all_the_same(tmp_path: Path) -> None:
    wide = np.zeros((64, 32 * KIB), np.float32)
    path = write(
        tmp_path / "model.onnx",
        [helper.make_node("MatMul", ["x", "wide"], ["y"])],
        {"wide": wide},
        ["rows", 64],
    )
    inside = activations(path)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights", size_threshold=0)
    (tmp_path / "weights").unlink()
    assert inside is not None
    assert activations(path) == inside
