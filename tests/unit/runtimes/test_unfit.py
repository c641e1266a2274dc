"""Whose fault it is that an engine fails: real engines, whose sentences are what is judged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from runtimes.base import Array, Resources, Signature, TensorSpec
from runtimes.errors import ExecutionError, UnfitInput
from runtimes.onnx import OnnxRuntime
from runtimes.torchscript import TorchScriptRuntime
from runtimes.unfit import unfit_input
from tests.support.model_files import node, onnx_model, save_script, value_info

FP32, INT64 = 1, 7
IDS = np.array([[3, 100, 0]])
TABLE = np.ones((10, 4), "f4")


class Unsupported(ExecutionError):
    """What a runtime knows to be no caller's fault."""


def judged(error: Exception, inputs: dict[str, Array], signature: Signature) -> str:
    """Return what is told to the caller; "" where it is the model's fault."""
    assert type(error) is ExecutionError, error
    unfit = unfit_input(error, inputs, signature)
    assert unfit is None or type(unfit) is UnfitInput
    return "" if unfit is None else str(unfit)


@pytest.fixture
def onnx(tmp_path: Path) -> Callable[..., str]:
    """Runs one node on inputs whose declared shapes are given; returns what is told to the caller."""

    def run(operator: str, shapes: dict[str, list[Any]], **inputs: Array) -> str:
        infos = [value_info(n, INT64 if a.dtype == "i8" else FP32, shapes[n]) for n, a in inputs.items()]
        path = tmp_path / "model.onnx"
        path.write_bytes(
            onnx_model([node(operator, list(inputs), ["y"])], infos, [value_info("y", FP32, None)])
        )
        model = OnnxRuntime().load(path, Resources())
        with pytest.raises(ExecutionError) as caught:
            model.infer(inputs)
        return judged(caught.value, inputs, model.signature)

    return run


@pytest.mark.parametrize("operator", ["Gather", "GatherND", "GatherElements"])
def test_an_index_of_the_callers_is_named(onnx: Callable[..., str], operator: str) -> None:
    ids = {"Gather": IDS, "GatherND": np.array([[100]]), "GatherElements": np.array([[1, 100]])}[operator]
    told = onnx(operator, {"table": [10, 4], "ids": ["n", "m"]}, table=TABLE, ids=ids)
    if operator == "GatherElements":
        assert told.startswith("the model cannot take one of 1 to 100 in input 'ids': ")
    else:
        place = [0, 1] if operator == "Gather" else [0, 0]
        assert told.startswith(f"the model cannot take 100 in input 'ids' at {place}: ")
    assert "onnxruntime" not in told


def test_an_index_that_the_model_made_is_the_models_fault(tmp_path: Path) -> None:
    nodes = [node("Add", ["ids", "ids"], ["twice"]), node("Gather", ["table", "twice"], ["y"])]
    infos = [value_info("table", FP32, ["n", 4]), value_info("ids", INT64, ["m"])]
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_model(nodes, infos, [value_info("y", FP32, None)]))
    model = OnnxRuntime().load(path, Resources())
    inputs = {"table": TABLE, "ids": np.array([3, 9])}
    with pytest.raises(ExecutionError, match="idx=18") as caught:
        model.infer(inputs)
    assert judged(caught.value, inputs, model.signature) == ""


X13, OTHER = np.ones((1, 3), "f4"), np.ones((2, 4), "f4")


@pytest.mark.parametrize(
    ("operator", "inputs", "words"),
    [
        (
            "Reshape",
            {"x": X13, "s": np.array([2, 2])},
            "The input tensor cannot be reshaped to the requested shape",
        ),
        ("Reshape", {"x": X13, "s": np.array([-1, 2])}, "Input shape:{1,3}, requested shape:{-1,2}"),
        ("MatMul", {"x": X13, "s": OTHER}, "dimension mismatch"),
        ("Gemm", {"x": X13, "s": OTHER}, "Dimension mismatch"),
        (
            "Add",
            {"x": X13, "s": OTHER},
            "Attempting to broadcast an axis by a dimension other than 1. 3 by 4",
        ),
        ("Expand", {"x": X13, "s": np.array([2, 2])}, "invalid expand shape"),
        ("LayerNormalization", {"x": X13, "s": np.ones(4, "f4")}, "must match X.shape"),
    ],
)
def test_a_shape_of_the_callers_is_told(
    onnx: Callable[..., str], operator: str, inputs: dict[str, Array], words: str
) -> None:
    free: dict[str, list[Any]] = {"x": ["n", "m"], "s": ["k", "l"][: inputs["s"].ndim]}
    told = onnx(operator, free, **inputs)
    assert told.startswith("the model cannot take input 'x' as FP32 of shape [1, 3], input 's' as ")
    assert words in told
    assert "onnxruntime" not in told


@pytest.mark.parametrize(
    ("operator", "shapes", "inputs"),
    [
        ("Reshape", {"x": ["n", 3], "s": [2]}, {"x": X13, "s": np.array([2, 2])}),
        ("Reshape", {"x": [1, 3], "s": [2]}, {"x": X13, "s": np.array([2, 2])}),
        ("Add", {"x": ["n", 3], "s": [2, 3]}, {"x": np.ones((4, 3), "f4"), "s": np.ones((2, 3), "f4")}),
    ],
)
def test_a_model_must_take_the_shapes_of_its_signature(
    onnx: Callable[..., str], operator: str, shapes: dict[str, list[Any]], inputs: dict[str, Array]
) -> None:
    assert onnx(operator, shapes, **inputs) == ""


def test_inputs_that_do_not_go_together_are_the_callers_fault(onnx: Callable[..., str]) -> None:
    shapes = {"x": ["n", 3], "s": ["n", 3]}
    told = onnx("Add", shapes, x=np.ones((2, 3), "f4"), s=np.ones((4, 3), "f4"))
    assert "2 by 4" in told


def test_memory_that_is_not_there_is_no_callers_fault(onnx: Callable[..., str]) -> None:
    assert onnx("Expand", {"x": ["n"], "s": ["k"]}, x=np.ones(1, "f4"), s=np.array([2**44])) == ""


class Dense(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.linear(x))


class Chain(torch.nn.Module):
    """What a TorchScript program may do with its input; `kind` says which."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.embedding = torch.nn.Embedding(10, 4)
        self.linear = torch.nn.Linear(4, 2)
        self.conv = torch.nn.Conv2d(3, 4, 3)
        self.lstm = torch.nn.LSTM(4, 3)
        self.norm = torch.nn.LayerNorm(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        if self.kind == "embedding":
            y = self.embedding(x)
        elif self.kind == "linear":
            y = self.linear(x)
        elif self.kind == "conv":
            y = self.conv(x)
        elif self.kind == "lstm":
            y = self.lstm(x)[0]
        elif self.kind == "norm":
            y = self.norm(x)
        elif self.kind == "view":
            y = x.view(2, 3)
        elif self.kind == "add":
            y = x + torch.ones(7)
        elif self.kind == "cat":
            y = torch.cat([x, torch.ones(1, 9)])
        elif self.kind == "index":
            y = torch.ones(4, 4)[x]
        elif self.kind == "select":
            y = x[:, 5]
        elif self.kind == "one_hot":
            y = torch.nn.functional.one_hot(x, 3)
        elif self.kind == "raise":
            raise RuntimeError("index out of luck")
        elif self.kind == "singular":
            y = torch.linalg.inv(torch.zeros(2, 2)) + x
        return y


def torch_failure(kind: str, array: Array, path: Path, signature: Signature | None = None) -> str:
    script = torch.jit.script(Chain(kind).eval())
    with pytest.raises(Exception) as caught:  # noqa: PT011  whatever PyTorch raises
        script(torch.from_numpy(array))
    error = ExecutionError(f"the model failed: {caught.value}")
    return judged(error, {"x": array}, signature or Signature((TensorSpec("x", "FP32"),), ()))


def floats(*shape: int) -> Array:
    return np.ones(shape, "f4")


@pytest.mark.parametrize(
    ("kind", "array", "words"),
    [
        ("embedding", np.array([1, 100]), "one of 1 to 100 in input 'x': index out of range in self"),
        ("index", np.array([1, 100]), "100 in input 'x' at [1]: index 100 is out of bounds"),
        ("one_hot", np.array([7]), "one of 7 to 7 in input 'x': Class values must be smaller"),
        (
            "linear",
            floats(1, 3),
            "input 'x' as FP32 of shape [1, 3]: mat1 and mat2 shapes cannot be multiplied",
        ),
        ("conv", floats(1, 1, 5, 5), "to have 3 channels, but got 1 channels instead"),
        ("conv", floats(1, 3, 1, 1), "Kernel size can't be greater than actual input size"),
        ("conv", floats(3), "input to conv2d, but got input of size: [3]"),
        ("lstm", floats(5, 1, 9), "input.size(-1) must be equal to input_size. Expected 4, got 9"),
        ("norm", floats(2, 3), "expected input with shape [*, 4], but got input of size[2, 3]"),
        ("view", floats(5), "shape '[2, 3]' is invalid for input of size 5"),
        ("add", floats(3), "The size of tensor a (3) must match the size of tensor b (7)"),
        ("cat", floats(1, 3), "Sizes of tensors must match except in dimension 0"),
        ("select", floats(2, 3), "index 5 out of range for tensor of size [2, 3]"),
        ("select", floats(2), "Dimension out of range (expected to be in range of [-1, 0], but got 1)"),
    ],
)
def test_pytorch_tells_what_the_caller_did(kind: str, array: Array, words: str, tmp_path: Path) -> None:
    told = torch_failure(kind, array, tmp_path)
    assert told.startswith("the model cannot take ")
    assert words in told
    assert "Traceback" not in told


@pytest.mark.parametrize(("kind", "array"), [("raise", np.array([1])), ("singular", floats(2, 2))])
def test_a_fault_of_the_program_stays_its_own(kind: str, array: Array, tmp_path: Path) -> None:
    assert torch_failure(kind, array, tmp_path) == ""


def test_floats_hold_no_index(tmp_path: Path) -> None:
    error = ExecutionError("the model failed: index 100 is out of bounds for dimension 0 with size 4")
    signature = Signature((TensorSpec("x", "FP32"),), ())
    assert judged(error, {"x": np.array([100.0], "f4")}, signature) == ""
    assert judged(error, {"x": np.array([], "i8")}, signature) == ""


def test_a_datatype_is_the_callers_where_the_signature_leaves_it_to_the_caller(tmp_path: Path) -> None:
    array = np.ones((1, 4))
    assert torch_failure("linear", array, tmp_path) == ""
    told = torch_failure("linear", array, tmp_path, Signature((TensorSpec("x", "ANY"),), ()))
    assert "input 'x' as FP64 of shape [1, 4]: mat1 and mat2 must have the same dtype" in told


@pytest.mark.parametrize(
    "call",
    [
        lambda x: torch.gather(torch.ones(2, 3), 1, x),
        lambda x: torch.index_select(torch.ones(2, 3), 0, x[0]),
        lambda x: torch.scatter(torch.ones(2, 3), 1, x, torch.ones(2, 3)),
        lambda x: torch.take(torch.ones(2, 3), x),
        torch.nn.functional.one_hot,
        lambda x: torch.nn.functional.embedding(x, torch.ones(2, 3)),
        lambda x: torch.ones(2, 3)[x],
        lambda x: torch.ones(2, 3).masked_fill(x, 0.0),
    ],
)
def test_floats_where_a_program_wants_indices_are_the_callers_fault(call: Callable[[Any], Any]) -> None:
    with pytest.raises((RuntimeError, IndexError)) as caught:
        call(torch.zeros(2, 3))
    error = ExecutionError(f"the model failed: {caught.value}")
    inputs = {"x": np.zeros((2, 3), "f4")}
    told = judged(error, inputs, Signature((TensorSpec("x", "ANY"),), ()))
    assert told.startswith("the model cannot take input 'x' as FP32 of shape [2, 3]: ")
    assert judged(error, inputs, Signature((TensorSpec("x", "FP32"),), ())) == ""


def test_what_a_runtime_knows_better_is_left_to_it() -> None:
    error = Unsupported("the model failed: index out of range in self")
    assert unfit_input(error, {"x": np.array([1])}, Signature((TensorSpec("x", "INT64"),), ())) is None


def test_a_script_that_is_served_says_the_same(tmp_path: Path) -> None:
    model = TorchScriptRuntime().load(save_script(Dense(), tmp_path / "model.pt"), Resources())
    with pytest.raises(ExecutionError) as caught:
        model.infer({"x": floats(1, 3)})
    assert "cannot be multiplied" in judged(caught.value, {"x": floats(1, 3)}, model.signature)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda x: torch.nn.functional.one_hot(x, 3),
            "one_hot is only applicable to index tensor of type Long",
        ),
        (lambda x: x.long().mean(), "Input dtype must be either a floating point or complex dtype"),
        (lambda x: x.gather(1, x), "gather(): Expected dtype int"),
        (lambda x: x.long().norm(), "Expected a floating point or complex tensor as input. Got Long"),
        (lambda x: torch.take(x, x), "take(): Expected a long tensor for index"),
        (lambda x: x.long().std(), "std and var only support floating point"),
        (lambda x: x.masked_fill(x, 0.0), "only supports boolean masks"),
        (lambda x: torch.where(x, x, x), "expected condition to be a boolean tensor"),
        (lambda x: -x.bool(), "on a bool tensor is not supported"),
        (lambda x: x.bool() - x.bool(), "with two bool tensors is not supported"),
        (lambda x: torch.nn.LSTM(3, 3)(x.long()), "does not match weight dtype"),
    ],
)
def test_pytorch_tells_of_a_datatype_in_many_words(
    call: Callable[[torch.Tensor], object], words: str
) -> None:
    array = floats(2, 3)
    with pytest.raises(Exception) as caught:  # noqa: PT011  whatever PyTorch raises
        call(torch.from_numpy(array))
    error = ExecutionError(f"the model failed: {caught.value}")
    answer = judged(error, {"x": array}, Signature((TensorSpec("x", "ANY"),), ()))
    assert answer.startswith("the model cannot take input 'x' as FP32 of shape [2, 3]: ")
    assert words in answer
    assert judged(error, {"x": array}, Signature((TensorSpec("x", "FP32"),), ())) == ""
