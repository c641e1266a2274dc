"""TorchScript on PyTorch keeps the contract, and what is its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from runtimes.base import Array, Resources, TensorSpec
from runtimes.errors import ExecutionError, InputError, LoadError, UnsafeFormat
from runtimes.testing import TensorContract
from runtimes.torchscript import TorchScriptModel, TorchScriptRuntime
from tests.support.model_files import save_script


class TestTorchScript(TensorContract):
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


def test_indices_of_an_embedding_are_integers(tmp_path: Path) -> None:
    model = loaded(Tagger(), tmp_path)
    assert model.signature.inputs == (TensorSpec("words", "INT64"), TensorSpec("weight", "FP32"))
    results = model.infer({"words": np.array([[1, 4]]), "weight": X})
    assert list(results) == ["output_0", "output_1"]
    assert results["output_1"] == 4


def test_a_traced_module_is_read_alike(tmp_path: Path) -> None:
    path = tmp_path / "traced.pt"
    example = (torch.zeros(1, 2, dtype=torch.long), torch.ones(1, 2))
    torch.jit.trace(Tagger(), example).save(str(path))  # type: ignore[no-untyped-call]
    model = TorchScriptRuntime().load(path, Resources())
    assert [spec.datatype for spec in model.signature.inputs] == ["INT64", "FP32"]


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
    assert model.signature.inputs == (TensorSpec("x", "FP32"),)
    assert model.infer({"x": X})["output_0"].tolist() == [[3.0, 6.0]]


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


def test_threads_come_from_the_resources(tmp_path: Path) -> None:
    TorchScriptRuntime().load(saved(ByName(), tmp_path), Resources(cpus=1.5))
    assert torch.get_num_threads() == 2
