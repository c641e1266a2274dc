"""A version answers a call before it is ready; only what no values could help is the model's fault."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from gateway.engine.first_call import answer_first_call, made_up
from runtimes.base import ANY, Array, Datatype, Resources, Signature, TensorModel, TensorSpec
from runtimes.errors import ExecutionError, InputError, Unsupported
from runtimes.onnx import OnnxRuntime
from runtimes.stated import StatedModel, combine
from runtimes.torch_export import TorchExportRuntime
from runtimes.torchscript import TorchScriptRuntime
from tests.support.model_files import node, onnx_model, save_script, value_info

X = TensorSpec("x", "FP32", (-1, 4))


class Fake:
    """A model that does what `act` does."""

    platform = "test_fake"
    device = "cpu"

    def __init__(self, act: Callable[[Mapping[str, Array]], dict[str, Array]], *inputs: TensorSpec) -> None:
        self.act = act
        self.signature = Signature(inputs or (X,), ())
        self.shapes: list[tuple[int, ...]] = []

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        self.shapes += [array.shape for array in inputs.values()]
        return self.act(inputs)

    def close(self) -> None:
        pass


def echo(inputs: Mapping[str, Array]) -> dict[str, Array]:
    return {"y": inputs["x"]}


def test_a_model_that_answers_is_run_a_few_times_with_the_smallest_sizes() -> None:
    model = Fake(echo)
    assert answer_first_call(model) == ""
    assert model.shapes == [(1, 4)] * 3


def test_the_example_of_a_model_comes_before_values_that_are_made_up() -> None:
    def act(inputs: Mapping[str, Array]) -> dict[str, Array]:
        if inputs["x"][0, 0] != 7:
            raise InputError("an unknown category")
        return echo(inputs)

    model = Fake(act)
    assert "an unknown category" in answer_first_call(model)
    model.example = {"x": np.full((1, 4), 7, np.float32)}  # type: ignore[attr-defined]
    assert answer_first_call(model) == ""


@pytest.mark.parametrize("datatype", list(Datatype))
def test_every_datatype_has_values(datatype: Datatype) -> None:
    inputs = made_up(Signature((TensorSpec("x", datatype.value, (2, -1)),), ()), (1, 3))
    assert inputs is not None
    assert (inputs["x"].dtype, inputs["x"].shape) == (datatype.numpy, (2, 3))


def test_values_are_made_of_what_is_likely() -> None:
    specs = (
        TensorSpec("input_ids", "INT64", (-1, -1)),
        TensorSpec("attention_mask", "INT64", (-1, -1)),
        TensorSpec("guess", ANY, None, "FP16", (-1, 3, -1)),
        TensorSpec("unknown", ANY),
        TensorSpec("number", "FP32", ()),
    )
    optional = TensorSpec("optional", "FP32", (1,))
    inputs = made_up(Signature(specs, (), (optional,)), (1, 2), rank=3)
    assert inputs is not None
    assert {name: (str(a.dtype), a.tolist()) for name, a in inputs.items() if a.size < 3} == {
        "input_ids": ("int64", [[0, 0]]),
        "attention_mask": ("int64", [[1, 1]]),
        "number": ("float32", 0.5),
    }
    assert (str(inputs["guess"].dtype), inputs["guess"].shape) == ("float16", (1, 3, 2))
    assert (str(inputs["unknown"].dtype), inputs["unknown"].shape) == ("float32", (1, 2, 2))


@pytest.mark.parametrize("error", [InputError("wrong sizes"), ExecutionError("too small"), ValueError("no")])
def test_other_sizes_are_tried_where_one_fails(error: Exception) -> None:
    def act(inputs: Mapping[str, Array]) -> dict[str, Array]:
        if inputs["x"].shape[1] < 28:
            raise error
        return echo(inputs)

    model = Fake(act, TensorSpec("x", "FP32", (-1, -1)))
    assert answer_first_call(model) == ""
    assert model.shapes[:4] == [(1, 1), (2, 2), (1, 8), (1, 28)]


def test_a_failure_that_may_be_due_to_the_values_is_noted_and_no_more() -> None:
    def act(_inputs: Mapping[str, Array]) -> dict[str, Array]:
        raise ExecutionError("the model failed: index 0 is out of range\n  in line 3\nIndexError: no rows\n")

    model = Fake(act, TensorSpec("x", "FP32", (1, 4)))
    assert answer_first_call(model) == "IndexError: no rows"
    assert model.shapes == [(1, 4)]  # its sizes are fixed: a second try would be the same


def test_inputs_that_would_be_huge_are_not_made() -> None:
    model = Fake(echo, TensorSpec("x", "FP32", (1024, 1024, 1024)))
    assert answer_first_call(model) == "its inputs have more than 64 MiB"
    assert model.shapes == []


def test_a_call_that_takes_long_does_not_hold_the_version_up() -> None:
    finish = threading.Event()

    def act(inputs: Mapping[str, Array]) -> dict[str, Array]:
        finish.wait(30)
        return echo(inputs)

    model = Fake(act)
    began = time.monotonic()
    assert answer_first_call(model, seconds=0.05) == "it was not answered within 0.05 s"
    assert time.monotonic() - began < 5
    finish.set()


@pytest.mark.parametrize("array", [np.zeros(1, np.complex64), np.zeros(1, "M8[s]")])
def test_an_output_that_has_no_datatype_fails_the_load(array: Array) -> None:
    with pytest.raises(Unsupported, match=r"'y'.*has no datatype in the Open Inference Protocol"):
        answer_first_call(Fake(lambda _inputs: {"y": array}))


class Text(torch.nn.Module):
    def forward(self, x: Tensor) -> str:
        return str(x.size(0))


class Complex(torch.nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, torch.fft.fft(x)


class Recurrent(torch.nn.Module):
    def __init__(self, cells: torch.nn.Module) -> None:
        super().__init__()
        self.cells = cells

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.cells(x)[0]
        return answer


class Unsigned(torch.nn.Module):
    """PyTorch has no product of these on the CPU."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.mm(x, x)


@pytest.mark.parametrize("module", [Text(), Complex()])
def test_a_script_whose_output_cannot_be_sent_fails_the_load(tmp_path: Path, module: torch.nn.Module) -> None:
    model = TorchScriptRuntime().load(save_script(module, tmp_path / "model.pt"), Resources())
    with pytest.raises(Unsupported, match=r"output '(output_0' is a str|output_1' is complex64)"):
        answer_first_call(model)


def test_an_operator_that_is_missing_for_the_datatype_of_the_file_fails_the_load(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    torch.export.save(torch.export.export(Unsigned(), (torch.ones(2, 2, dtype=torch.uint16),)), path)
    with pytest.raises(Unsupported, match="not implemented for 'UInt16'"):
        answer_first_call(TorchExportRuntime().load(path, Resources()))


def test_the_same_in_a_script_is_no_proof_as_the_datatype_is_a_guess(tmp_path: Path) -> None:
    class Half(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            answer: Tensor = torch.linalg.inv(x.to(torch.uint8))
            return answer

    model = TorchScriptRuntime().load(save_script(Half(), tmp_path / "model.pt"), Resources())
    assert "linalg.inv" in answer_first_call(model)


@pytest.mark.parametrize(
    "module",
    [
        torch.nn.Linear(3, 2),
        torch.nn.Linear(3, 2, dtype=torch.float64),
        torch.nn.Embedding(4, 2),
        torch.nn.EmbeddingBag(4, 2),
        torch.nn.Sequential(torch.nn.Conv2d(3, 4, 7), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()),
        torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4 * 26 * 26, 2)),
        Recurrent(torch.nn.LSTM(3, 2)),
        Recurrent(torch.nn.GRU(3, 2, batch_first=True)),
        torch.nn.Softmax(-1),
    ],
    ids=lambda module: type(module).__name__,
)
def test_usual_scripts_answer(tmp_path: Path, module: torch.nn.Module) -> None:
    model = TorchScriptRuntime().load(save_script(module, tmp_path / "model.pt"), Resources())
    assert answer_first_call(model) == ""


def test_programs_that_were_not_exported_for_one_row_answer(tmp_path: Path) -> None:
    path, rows = tmp_path / "model.pt2", torch.export.Dim("rows", min=2, max=8)
    program = torch.export.export(torch.nn.Linear(3, 2), (torch.ones(4, 3),), dynamic_shapes=({0: rows},))
    torch.export.save(program, path)
    assert answer_first_call(TorchExportRuntime().load(path, Resources())) == ""


def gather(tmp_path: Path) -> TensorModel:
    """A table that the caller sends, and indices into it: with axes of 1, index 0 is right."""
    inputs = [value_info("table", 1, ["n"]), value_info("index", 7, ["m"])]
    path = tmp_path / "model.onnx"
    path.write_bytes(
        onnx_model([node("Gather", ["table", "index"], ["y"])], inputs, [value_info("y", 1, ["m"])])
    )
    return OnnxRuntime().load(path, Resources())


def test_indices_are_valid_in_any_table(tmp_path: Path) -> None:
    assert answer_first_call(gather(tmp_path)) == ""


def test_two_axes_that_do_not_fit_each_other_are_noted(tmp_path: Path) -> None:
    inputs = [value_info("x", 1, ["n", "k"]), value_info("z", 1, [3, "m"])]
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_model([node("MatMul", ["x", "z"], ["y"])], inputs, [value_info("y", 1, None)]))
    assert "MatMul" in answer_first_call(OnnxRuntime().load(path, Resources()))


def test_inputs_that_are_given_are_used_instead() -> None:
    model = Fake(echo)
    assert answer_first_call(model, {"x": np.ones((7, 4), np.float32)}) == ""
    assert model.shapes == [(7, 4)] * 3

    def act(_inputs: Mapping[str, Array]) -> dict[str, Array]:
        raise ExecutionError("no")

    model = Fake(act)
    assert answer_first_call(model, {"x": np.ones((7, 4), np.float32)}) == "no"
    assert model.shapes == [(7, 4)]


def stated(act: Callable[[Mapping[str, Array]], dict[str, Array]], *outputs: TensorSpec) -> StatedModel:
    model = Fake(act)
    return StatedModel(model, combine(model.signature, (), outputs, "the Kitfile"))


def test_outputs_that_are_stated_must_be_given() -> None:
    assert answer_first_call(stated(echo, TensorSpec("y", "FP32", (-1, 4)))) == ""
    for wrong, message in {
        TensorSpec("z", "FP32"): "output 'z' is stated, but the model gave 'y'",
        TensorSpec("y", "INT64"): "stated as INT64 of any shape, but the model gave FP32 of shape",
        TensorSpec("y", "FP32", (-1, 5)): r"stated as FP32 of shape \[-1, 5\], but the model gave FP32 of",
    }.items():
        with pytest.raises(Unsupported, match=message):
            answer_first_call(stated(echo, wrong))


def test_an_example_goes_first_and_a_wrong_one_is_passed_over() -> None:
    reasons: list[str] = []
    model = Fake(echo)
    assert answer_first_call(model, {"x": np.zeros((3, 4), np.float32)}, pass_over=reasons.append) == ""
    assert (model.shapes, reasons) == ([(3, 4)] * 3, [])

    def picky(inputs: Mapping[str, Array]) -> dict[str, Array]:
        if len(inputs["x"]) == 3:
            raise Unsupported("three rows are no call")
        return echo(inputs)

    model = Fake(picky)
    assert answer_first_call(model, {"x": np.zeros((3, 4), np.float32)}, pass_over=reasons.append) == ""
    assert reasons == ["three rows are no call"]
    assert model.shapes[1:] == [(1, 4)] * 3


def test_a_golden_row_counts_alone() -> None:
    def refuse(inputs: Mapping[str, Array]) -> dict[str, Array]:
        raise InputError("no such row")

    model = Fake(refuse)
    assert answer_first_call(model, {"x": np.zeros((3, 4), np.float32)}) == "no such row"
    assert model.shapes == [(3, 4)]
