"""TorchScript on PyTorch keeps the contract, and what is its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from runtimes.base import ANY, Array, Datatype, Resources, TensorSpec
from runtimes.errors import ExecutionError, InputError, LoadError, UnsafeFormat, Unsupported
from runtimes.testing import ProcessContract, TensorContract
from runtimes.torch_export import TorchExportRuntime
from runtimes.torchscript import TorchScriptModel, TorchScriptRuntime
from tests.support.model_files import save_script


class TestTorchScript(TensorContract, ProcessContract):
    engine = "torch"

    @pytest.fixture
    def runtime(self) -> TorchScriptRuntime:
        return TorchScriptRuntime()

    @pytest.fixture
    def model_path(self, sample: Callable[[str], Path]) -> Path:
        return sample("/iris-torchscript:v1") / "model" / "iris.pt"

    @pytest.fixture
    def inputs(self, flowers: Array) -> dict[str, Array]:
        return {"x": flowers}

    @pytest.fixture
    def expected(self, probabilities: Array) -> dict[str, Array]:
        return {"output_0": probabilities}

    def test_a_gpu_that_is_asked_for_and_not_usable_is_an_error(
        self, runtime: TorchScriptRuntime, model_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(LoadError, match=r"to run on a GPU, and PyTorch .* can use none \(.+\); mend"):
            runtime.load(model_path, Resources(gpus=0.5))


class Tagger(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(5, 2)

    def forward(self, words: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.table(words).sum(-1) * weight, words.max()


class ByName(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"twice": x * 2, "half": x / 2}


class Several(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [x, x + 1]


class WithOption(torch.nn.Module):
    def forward(self, x: torch.Tensor, times: int = 3) -> torch.Tensor:
        return x * times


class WithNumber(torch.nn.Module):
    def forward(self, x: torch.Tensor, times: int) -> torch.Tensor:
        return x * times


class Text(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> str:
        return str(x.size(0))


class InPlace(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.add_(1)


class Reader(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.from_file("/etc/hostname", False, 1)


class Writer(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.save(x, "/tmp/stolen")
        return x


def saved(module: torch.nn.Module, directory: Path) -> Path:
    return save_script(module, directory / "model.pt")


def loaded(module: torch.nn.Module, directory: Path) -> TorchScriptModel:
    return TorchScriptRuntime().load(saved(module, directory), Resources())


X = np.array([[1.0, 2.0]], dtype=np.float32)


def likely(name: str, datatype: str, shape: tuple[int, ...] | None = None) -> TensorSpec:
    return TensorSpec(name, ANY, None, datatype, shape)


def test_indices_of_an_embedding_are_integers(tmp_path: Path) -> None:
    model = loaded(Tagger(), tmp_path)
    assert model.signature.inputs == (likely("words", "INT64", (-1, -1)), likely("weight", "FP32"))
    results = model.infer({"words": np.array([[1, 4]]), "weight": X})
    assert list(results) == ["output_0", "output_1"]
    assert results["output_1"] == 4


def test_a_traced_module_is_read_alike(tmp_path: Path) -> None:
    path = tmp_path / "traced.pt"
    example = (torch.zeros(1, 2, dtype=torch.long), torch.ones(1, 2))
    torch.jit.trace(Tagger(), example).save(str(path))  # type: ignore[no-untyped-call]
    model = TorchScriptRuntime().load(path, Resources())
    assert [spec.likely for spec in model.signature.inputs] == ["INT64", "FP32"]


def test_a_dict_names_the_outputs(tmp_path: Path) -> None:
    model = loaded(ByName(), tmp_path)
    assert model.signature.outputs == ()
    assert model.infer({"x": X}).keys() == {"twice", "half"}
    assert model.infer({"x": X}, ["half"])["half"].tolist() == [[0.5, 1.0]]
    with pytest.raises(InputError, match=r"'third'.*'twice', 'half'"):
        model.infer({"x": X}, ["third"])


def test_a_list_numbers_the_outputs(tmp_path: Path) -> None:
    assert list(loaded(Several(), tmp_path).infer({"x": X})) == ["output_0", "output_1"]


def test_arguments_with_a_default_are_left_to_it(tmp_path: Path) -> None:
    model = loaded(WithOption(), tmp_path)
    assert model.signature.inputs == (likely("x", "FP32"),)
    assert model.infer({"x": X})["output_0"].tolist() == [[3.0, 6.0]]


def test_arguments_with_a_default_can_be_given(tmp_path: Path) -> None:
    model = loaded(WithOption(), tmp_path)
    assert model.signature.optional == (TensorSpec("times", "INT64", (1,)),)
    assert model.infer({"x": X, "times": np.array([5])})["output_0"].tolist() == [[5.0, 10.0]]
    with pytest.raises(InputError, match="'times' must be INT64"):
        model.infer({"x": X, "times": np.array([0.5])})


def test_an_argument_that_is_no_tensor_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="'times' of int"):
        loaded(WithNumber(), tmp_path)


def test_an_output_that_is_no_tensor_is_an_execution_error(tmp_path: Path) -> None:
    with pytest.raises(ExecutionError, match="'output_0' is a str"):
        loaded(Text(), tmp_path).infer({"x": X})


def test_a_model_that_writes_to_its_input_does_not_reach_the_callers_bytes(tmp_path: Path) -> None:
    frozen = np.frombuffer(X.tobytes(), np.float32).reshape(1, 2)
    loaded(InPlace(), tmp_path).infer({"x": frozen})
    assert frozen.tolist() == X.tolist()


class Choosy(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool(x.sum() > 9):
            raise RuntimeError("the sum is too large:\nat most 9")
        return x


def test_callers_are_told_the_sentence_of_an_error_and_not_the_lines_of_the_program(tmp_path: Path) -> None:
    model = TorchScriptRuntime().load(save_script(Choosy(), tmp_path / "model.pt"), Resources())
    with pytest.raises(ExecutionError) as caught:
        model.infer({"x": np.full(4, 9, "f4")})
    assert str(caught.value) == "the model failed: the sum is too large:\nat most 9"
    assert "in forward" in str(caught.value.__cause__)


def test_a_failing_model_is_an_execution_error(tmp_path: Path) -> None:
    with pytest.raises(ExecutionError, match="the model failed"):
        loaded(Tagger(), tmp_path).infer({"words": np.array([[99, 0]]), "weight": X})


@pytest.mark.parametrize("module", [Reader(), Writer()])
def test_operators_on_files_are_refused(tmp_path: Path, module: torch.nn.Module) -> None:
    path = saved(module, tmp_path)
    with pytest.raises(UnsafeFormat, match=r"model\.pt: code/.*reads or writes files"):
        TorchScriptRuntime().load(path, Resources())


def test_a_checkpoint_never_reaches_the_engine(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"weight": torch.ones(2)}, path)
    with pytest.raises(LoadError, match="PyTorch checkpoint"):
        TorchScriptRuntime().load(path, Resources())


def test_a_module_without_forward_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="has no method forward"):
        loaded(torch.nn.LSTM(2, 3), tmp_path)


def test_threads_come_from_the_resources(tmp_path: Path) -> None:
    TorchScriptRuntime().load(saved(ByName(), tmp_path), Resources(cpus=1.5))
    assert torch.get_num_threads() == 2


class Viewed(torch.nn.Module):
    """As GPT-2 and T5 do: views the ids, then looks them up."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(5, 2)

    def forward(self, ids: Tensor) -> Tensor:
        answer: Tensor = self.table(ids.view(-1, ids.size(-1)))
        return answer


class Bag(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bag = torch.nn.EmbeddingBag(5, 2)

    def forward(self, ids: Tensor) -> Tensor:
        answer: Tensor = self.bag(ids)
        return answer


class OneHot(torch.nn.Module):
    def forward(self, ids: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(ids, 5)


class Masked(torch.nn.Module):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return x.masked_fill(mask.unsqueeze(0).squeeze(0), 0.0)


class Picture(torch.nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.to(torch.float32) / 255


class Dense(torch.nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dense = torch.nn.Linear(2, 3, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.dense(x)
        return answer


IDS = np.array([[0, 4]])


@pytest.mark.parametrize(
    ("module", "inputs", "datatypes"),
    [
        (Viewed(), {"ids": IDS}, ["INT64"]),
        (Bag(), {"ids": IDS}, ["INT64"]),
        (Bag(), {"ids": IDS.astype(np.int32)}, ["INT64"]),
        (OneHot(), {"ids": IDS}, ["INT64"]),
        (Masked(), {"x": X, "mask": np.array([[True, False]])}, ["FP32", "BOOL"]),
        (Picture(), {"pixels": np.array([[255]], np.uint8)}, ["FP32"]),
        (Dense(torch.float16), {"x": X.astype(np.float16)}, ["FP16"]),
        (Dense(torch.bfloat16), {"x": X.astype(Datatype.BF16.numpy)}, ["BF16"]),
        (Dense(torch.float64), {"x": X.astype(np.float64)}, ["FP64"]),
    ],
)
def test_the_callers_datatype_is_taken(
    tmp_path: Path, module: torch.nn.Module, inputs: dict[str, Array], datatypes: list[str]
) -> None:
    model = loaded(module, tmp_path)
    assert [spec.likely for spec in model.signature.inputs] == datatypes
    assert {spec.datatype for spec in model.signature.inputs} == {ANY}
    assert list(model.infer(inputs)) == ["output_0"]


def test_strings_are_refused_where_any_datatype_is_taken(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'x' must be a datatype of numbers, not BYTES"):
        loaded(ByName(), tmp_path).infer({"x": np.array([b"a"], object)})


class Recurrent(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells = torch.nn.LSTM(2, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        out, (hidden, cell) = self.cells(x)
        return out, (hidden, cell)


class Nested(torch.nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, list[Tensor]]]:
        return x, (x[0], [x[0, 0], x + 1])


class Mixed(torch.nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, None, int, float, bool, list[int], Tensor | None]:
        return x, None, x.dim(), 0.5, True, [3, 4], x if x.sum() > 100 else None


class WithList(torch.nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        return x, [x + 1, x + 2]


class Detections(torch.nn.Module):
    def forward(self, x: Tensor) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
        losses: dict[str, Tensor] = {}
        return losses, [{"boxes": x, "scores": x[0]}, {"boxes": x * 2, "scores": x[0]}]


class NoNumbers(torch.nn.Module):
    def forward(self, x: Tensor) -> tuple[list[int], Tensor]:
        empty: list[int] = []
        return empty, x


def test_nested_outputs_are_numbered_as_torch_export_numbers_them(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(Nested(), (torch.ones(1, 2),)), tmp_path / "model.pt2")
    program = TorchExportRuntime().load(tmp_path / "model.pt2", Resources())
    answer = loaded(Nested(), tmp_path).infer({"x": X})
    shapes = {name: array.shape for name, array in answer.items()}
    assert shapes == {"output_0": (1, 2), "output_1": (2,), "output_2": (), "output_3": (1, 2)}
    assert shapes == {name: array.shape for name, array in program.infer({"x": X}).items()}
    assert [spec.name for spec in program.signature.outputs] == list(shapes)


def test_the_states_of_a_recurrent_model_are_outputs(tmp_path: Path) -> None:
    model = loaded(Recurrent(), tmp_path)
    names = [spec.name for spec in model.signature.outputs]
    assert list(model.infer({"x": np.ones((4, 1, 2), np.float32)})) == names
    assert names == ["output_0", "output_1", "output_2"]


def test_none_and_numbers_keep_their_places(tmp_path: Path) -> None:
    model = loaded(Mixed(), tmp_path)
    assert model.signature.outputs == (
        likely("output_0", "FP32"),
        TensorSpec("output_2", "INT64", ()),
        TensorSpec("output_3", "FP64", ()),
        TensorSpec("output_4", "BOOL", ()),
        TensorSpec("output_5", "INT64"),
        likely("output_6", "FP32"),
    )
    few = model.infer({"x": X})
    assert {name: array.tolist() for name, array in few.items()} == {
        "output_0": X.tolist(),
        "output_2": 2,
        "output_3": 0.5,
        "output_4": True,
        "output_5": [3, 4],
    }
    assert list(model.infer({"x": X * 100})) == [*few, "output_6"]
    assert list(model.infer({"x": X}, ["output_2"])) == ["output_2"]
    with pytest.raises(InputError, match="'output_6' is None for these inputs"):
        model.infer({"x": X}, ["output_6"])


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (WithList(), ["output_0", "output_1", "output_2"]),
        (Detections(), ["output_0", "output_1", "output_2", "output_3"]),
        (NoNumbers(), ["output_0", "output_1"]),
    ],
)
def test_lists_and_dicts_within_others_are_flattened(
    tmp_path: Path, module: torch.nn.Module, names: list[str]
) -> None:
    assert list(loaded(module, tmp_path).infer({"x": X})) == names


def test_an_exported_program_may_return_none_and_numbers_and_take_constants(tmp_path: Path) -> None:
    class Constants(torch.nn.Module):
        def forward(self, x: Tensor, times: int, bias: Tensor | None) -> tuple[Tensor, None, int]:
            return x * times if bias is None else x * times + bias, None, 7

    path = tmp_path / "model.pt2"
    torch.export.save(torch.export.export(Constants(), (torch.ones(1, 2), 3, None), strict=False), path)
    model = TorchExportRuntime().load(path, Resources())
    assert [spec.name for spec in model.signature.inputs] == ["x"]
    assert [spec.name for spec in model.signature.outputs] == ["output_0", "output_2"]
    assert {name: array.tolist() for name, array in model.infer({"x": X}).items()} == {
        "output_0": [[3.0, 6.0]],
        "output_2": 7,
    }


class Optionals(torch.nn.Module):
    def forward(
        self, x: Tensor, mask: Tensor | None, bias: Tensor | None = None, scale: float | None = None
    ) -> Tensor:
        if mask is not None:
            x = x * mask
        if bias is not None:
            x = x + bias
        return x if scale is None else x * scale


def test_optional_tensors_are_given_or_left_out(tmp_path: Path) -> None:
    model = loaded(Optionals(), tmp_path)
    assert model.signature.inputs == (likely("x", "FP32"),)
    assert [spec.name for spec in model.signature.optional] == ["mask", "bias", "scale"]

    def answer(**inputs: Array) -> object:
        return model.infer({"x": X, **inputs})["output_0"].tolist()

    assert answer() == [[1.0, 2.0]]
    assert answer(bias=X) == [[2.0, 4.0]]
    assert answer(mask=X * 0) == [[0.0, 0.0]]
    assert answer(mask=X, scale=np.array([2.0])) == [[2.0, 8.0]]
    with pytest.raises(InputError, match="unknown input 'other'"):
        answer(other=X)
    with pytest.raises(InputError, match="input 'x' is missing"):
        model.infer({"mask": X})


class Complex(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = torch.fft.fft(x)
        return answer


class Sparse(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.to_sparse()


class Quantized(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = torch.int_repr(x)
        return answer


@pytest.mark.parametrize("module", [Text(), Complex(), Sparse(), Quantized()])
def test_what_fails_on_every_call_is_told_apart(tmp_path: Path, module: torch.nn.Module) -> None:
    with pytest.raises(Unsupported) as caught:
        loaded(module, tmp_path).infer({"x": X})
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("x", [np.ones((1, 3), np.float32), np.ones((1, 2), np.float16)])
def test_what_fails_on_some_calls_is_not(tmp_path: Path, x: Array) -> None:
    with pytest.raises(ExecutionError) as caught:
        loaded(Dense(torch.float32), tmp_path).infer({"x": x})
    assert not isinstance(caught.value, Unsupported)


@pytest.mark.filterwarnings("ignore:`torch.jit.freeze` is deprecated:DeprecationWarning")
@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (torch.nn.Linear(4, 3), (-1, 4)),
        (torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(), torch.nn.Linear(784, 3)), (-1, 784)),
        (torch.nn.Conv1d(3, 8, 3), (-1, 3, -1)),
        (torch.nn.Conv2d(6, 8, 3, groups=2), (-1, 6, -1, -1)),
        (torch.nn.Embedding(9, 2), (-1, -1)),
        (Viewed(), (-1, -1)),
        (Recurrent(), (-1, -1, 2)),
        (torch.nn.ReLU(), None),
    ],
)
def test_the_shape_that_is_likely_follows_from_the_first_weight(
    tmp_path: Path, module: torch.nn.Module, shape: tuple[int, ...] | None
) -> None:
    for compiled in (torch.jit.script(module), torch.jit.freeze(torch.jit.script(module.eval()))):
        compiled.save(str(tmp_path / "model.pt"))
        (spec,) = TorchScriptRuntime().load(tmp_path / "model.pt", Resources()).signature.inputs
        assert (spec.shape, spec.likely_shape) == (None, shape)
