"""Programs for PyTorch are loaded only with operators of the list, and with tensors within their bytes."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from runtimes.base import Resources
from runtimes.errors import UnsafeFormat
from runtimes.pt2_safety import check_program
from runtimes.torch_operators.known import is_known, known_operators, refused_operators
from runtimes.torchscript import TorchScriptRuntime
from runtimes.torchscript_graph import check_functions
from tests.support.model_files import save_script

X = np.ones((1, 2), np.float32)


class Heap(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.inductor._reinterpret_tensor(x, [20_000], [1], 0)  # type: ignore[no-any-return]


class Alias(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.aten._reshape_alias(x, [20_000], [1])  # type: ignore[no-any-return]


class Unwritten(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.empty(20_000) + x.sum()


class Resized(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.resize_([20_000])


class Forked(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        future = torch.jit.fork(_stolen, x)  # type: ignore[no-untyped-call]
        if x.dim() > 1:
            for _ in range(2):
                x = torch.jit.wait(future)  # type: ignore[no-untyped-call]
        return x


def _stolen(x: torch.Tensor) -> torch.Tensor:
    return torch.unsafe_chunk(x.as_strided([2], [1]), 2)[0]


class Plain(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)  # type: ignore[no-any-return]


class Stateful(torch.nn.Module):
    """A module whose `__setstate__` runs while it is loaded, as that of quantized layers does."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.ones(2)
        self.training = False

    @torch.jit.export
    def __getstate__(self) -> tuple[torch.Tensor, bool]:
        return self.weight, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]) -> None:
        self.weight = state[0].mul(2)
        self.training = state[1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight


def changed(path: Path, change: Callable[[str, bytes], bytes]) -> Path:
    """Return a copy of an archive whose members `change` has made."""
    content = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(content, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name.partition("/")[2], old.read(name)))
    path.write_bytes(content.getvalue())
    return path


def in_code(old: str, text: str) -> Callable[[str, bytes], bytes]:
    return lambda name, content: (
        content.replace(old.encode(), text.encode()) if name.endswith(".py") else content
    )


def load(path: Path) -> object:
    return TorchScriptRuntime().load(path, Resources())


@pytest.mark.parametrize(
    ("module", "operator"),
    [
        (Heap(), "inductor::_reinterpret_tensor"),
        (Alias(), "_reshape_alias"),
        (Unwritten(), "empty"),
        (Resized(), "resize_"),
        (Forked(), "(as_strided|unsafe_chunk)"),
    ],
)
def test_operators_that_read_what_they_were_not_given_are_refused(
    module: torch.nn.Module, operator: str, tmp_path: Path
) -> None:
    path = save_script(module, tmp_path / "model.pt")
    for look in (load, TorchScriptRuntime().check):
        with pytest.raises(UnsafeFormat, match=f"{operator}.*not on the list.*without it"):
            look(path)


def test_code_of_kits_that_may_run_code_has_any_operator(tmp_path: Path) -> None:
    path = save_script(Unwritten(), tmp_path / "model.pt")
    runtime = TorchScriptRuntime().with_code()
    runtime.check(path)
    assert runtime.load(path, Resources()).infer({"x": X})["output_0"].shape == (20_000,)


@pytest.mark.parametrize(
    "call", ["(x).resize_([20000])", 'getattr(x, "as_strided")([2], [1])', "(x).new_empty([20000])"]
)
def test_methods_written_by_hand_are_found_before_the_first_call(call: str, tmp_path: Path) -> None:
    path = save_script(Plain(), tmp_path / "model.pt")
    changed(path, in_code("return (linear).forward(x, )", f"return {call}"))
    with pytest.raises(UnsafeFormat, match=r"forward uses '\w+'"):
        load(path)


@pytest.mark.parametrize(
    "call",
    [
        "(_0).as_strided([2], [1])",
        'getattr(_0, "resize_")([2])',
        "torch.empty([20000])",
        "ops.inductor._reinterpret_tensor(_0, [20000], [1])",
        "(ops).aten",
        "torch.mul(_0, 2) # \r    torch.empty([2])",
    ],
)
def test_what_runs_while_a_program_is_loaded_is_judged_by_its_text(call: str, tmp_path: Path) -> None:
    path = save_script(Stateful(), tmp_path / "model.pt")
    changed(path, in_code("torch.mul((state)[0], 2)", call.replace("_0", "(state)[0]")))
    with pytest.raises(UnsafeFormat, match=r"code/.*(not on the list|does not write)"):
        TorchScriptRuntime().check(path)


def test_a_harmless_setstate_is_run(tmp_path: Path) -> None:
    model = TorchScriptRuntime().load(save_script(Stateful(), tmp_path / "model.pt"), Resources())
    assert model.infer({"x": X})["output_0"].tolist() == [[2.0, 2.0]]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        # (2, 2) with strides (2, 1) becomes (200, 2); another storage's count; the weight begins at 60.
        (b"K\x02K\x02\x86", b"K\xc8K\x02\x86"),
        (b"X\x03\x00\x00\x00cpuq\x0aK\x04t", b"X\x03\x00\x00\x00cpuq\x0aK\xc8t"),
    ],
)
def test_tensors_beyond_their_bytes_are_refused(old: bytes, new: bytes, tmp_path: Path) -> None:
    path = save_script(Plain(), tmp_path / "model.pt")

    def widen(name: str, content: bytes) -> bytes:
        if name != "data.pkl":
            return content
        text = re.sub(re.escape(old).replace(b"q\x0a", b"q."), new, content, count=1, flags=re.DOTALL)
        if text == content:  # TorchScript writes the sizes as a tuple behind a mark.
            text = content.replace(b"(K\x02K\x02t", b"(K\xc8K\x02t", 1)
        assert text != content
        return text

    with pytest.raises(UnsafeFormat, match=r"data\.pkl (has a tensor that is larger|takes \d+ bytes)"):
        load(changed(path, widen))


def test_classes_of_pytorch_that_do_more_than_hold_weights_are_refused(tmp_path: Path) -> None:
    path = save_script(Plain(), tmp_path / "model.pt")
    changed(path, in_code("linear : ", "store : __torch__.torch.classes.dist_c10d.Store\n  linear : "))
    with pytest.raises(UnsafeFormat, match=r"torch\.classes\.dist_c10d\.Store"):
        TorchScriptRuntime().check(path)


@pytest.mark.parametrize(
    "module",
    [
        torch.nn.LSTM(2, 3, batch_first=True),
        torch.nn.TransformerEncoderLayer(4, 2, batch_first=True).eval(),
        torch.nn.Sequential(torch.nn.Conv1d(2, 2, 1), torch.nn.BatchNorm1d(2), torch.nn.GELU()).eval(),
        torch.nn.EmbeddingBag(4, 2),
    ],
)
def test_layers_of_pytorch_have_only_operators_of_the_list(module: torch.nn.Module, tmp_path: Path) -> None:
    module.eval()
    path = save_script(module, tmp_path / "model.pt")
    TorchScriptRuntime().check(path)
    unit: Any = torch._C.CompilationUnit()
    torch._C.import_ir_module(unit, str(path), torch.device("cpu"), {}, False)  # type: ignore[call-arg]
    check_functions(unit.get_functions(), path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:torch.quantize_per_tensor:UserWarning")
def test_quantized_layers_are_loaded(tmp_path: Path) -> None:
    if "x86" not in torch.backends.quantized.supported_engines:
        pytest.skip("PyTorch has no quantized layers here")
    quantize: Any = torch.ao.quantization.quantize_dynamic
    quantized = quantize(Plain(), {torch.nn.Linear}, torch.qint8)
    model = TorchScriptRuntime().load(save_script(quantized, tmp_path / "model.pt"), Resources())
    assert model.infer({"x": X})["output_0"].shape == (1, 2)


@pytest.mark.parametrize(
    "target",
    [
        "torch.ops.aten._reshape_alias.default",
        "torch.ops.aten.as_strided.default",
        "torch.ops.aten.empty.memory_format",
        "torch.ops.prims.empty_strided.default",
        "torch.ops.inductor._reinterpret_tensor.default",
    ],
)
def test_exported_programs_have_the_same_list(target: str) -> None:
    program = {"nodes": [{"target": target}]}
    with pytest.raises(UnsafeFormat):
        check_program(program, Path("model.pt2"))
    check_program(program, Path("model.pt2"), any_operator=True)
    check_program({"nodes": [{"target": "torch.ops.aten.linear.default"}]}, Path("model.pt2"))


def test_the_list_has_nothing_that_gives_out_memory() -> None:
    doubtful = re.compile(
        r"unsafe_(?!view)|as_strided|storage|resize|backward|from_[bf]|empty|buffer|::set_$|data_ptr|load|save"
    )
    assert [name for name in sorted(known_operators()) if doubtful.search(name)] == []
    assert not known_operators() & refused_operators()
    assert {name.partition("::")[0] for name in known_operators()} == {"aten", "prim", "prims", "quantized"}
    assert is_known("aten::linear")
