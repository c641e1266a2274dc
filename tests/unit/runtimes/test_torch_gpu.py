"""PyTorch on a GPU: a fake of CUDA's calls stands in, which records what is computed, as a graph does."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from runtimes import cuda, gpu_libraries, torch_device, torch_graphs, torch_tensors
from runtimes.base import Resources
from runtimes.errors import ExecutionError, LoadError
from runtimes.torch_device import Gpu
from runtimes.torch_export import TorchExportRuntime
from runtimes.torch_graphs import CAPTURED_AFTER, MAX_GRAPHS, GraphRuns
from runtimes.torch_tensors import prepare
from runtimes.torchscript import TorchScriptRuntime
from tests.support.gpu_errors import TORCH_MEMORY

GIB = 1 << 30


class RecordingGraph(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records operators while it is active; `replay` computes them again, into the same tensors."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.replays = 0

    def __torch_dispatch__(
        self, operator: Any, _types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:  # what PyTorch calls
        if operator is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        result = operator(*args, **(kwargs or {}))
        self.calls.append((operator, args, kwargs or {}, result))
        return result

    def replay(self) -> None:
        self.replays += 1
        for operator, args, kwargs, result in self.calls:
            again = operator(*args, **kwargs)
            if isinstance(result, torch.Tensor) and result.data_ptr() != again.data_ptr():
                result.copy_(again)


class FakeCuda:
    """CUDA through PyTorch, on the CPU; `log` has what was done, in order."""

    device = "cpu"

    def __init__(self) -> None:
        self.log: list[str] = []
        self.graphs: list[RecordingGraph] = []

    @contextmanager
    def stream(self) -> Iterator[None]:
        self.log.append("stream")
        yield

    def synchronize(self) -> None:
        self.log.append("synchronize")

    def pinned(self, tensor: torch.Tensor) -> torch.Tensor:
        self.log.append("pin")
        return tensor.clone()

    def empty_pinned(self, like: torch.Tensor) -> torch.Tensor:
        self.log.append("empty")
        return torch.empty(like.shape, dtype=like.dtype)

    def new_graph(self) -> RecordingGraph:
        return RecordingGraph()

    @contextmanager
    def capture(self, graph: RecordingGraph) -> Iterator[None]:
        with graph:
            yield
        self.graphs.append(graph)


@pytest.fixture
def fake() -> FakeCuda:
    return FakeCuda()


def double(values: Sequence[Any]) -> Mapping[str, Any]:
    return {"y": values[0] * values[1] + 1}


def test_tensors_travel_pinned_and_are_waited_for_once(fake: FakeCuda) -> None:
    gpu = Gpu("cuda:0", fake)
    with gpu.running():
        x = gpu.upload(np.arange(4, dtype=np.float32))
        values = gpu.download({"a": x + 1, "b": x * 2, "number": 3})
    assert fake.log == ["stream", "pin", "empty", "empty", "synchronize"]
    assert values["a"].tolist() == [1.0, 2.0, 3.0, 4.0]
    assert values["b"].tolist() == [0.0, 2.0, 4.0, 6.0]
    assert values["number"] == 3


def test_a_shape_that_comes_often_is_captured_and_replayed(fake: FakeCuda) -> None:
    runs = GraphRuns(double, fake)
    for number in range(CAPTURED_AFTER + 20):
        x = torch.full((3,), float(number))
        assert runs([x, 2])["y"].tolist() == [2.0 * number + 1] * 3
    (graph,) = fake.graphs
    assert graph.replays == 20
    # Another shape, another number: not that graph's.
    assert runs([torch.ones(4), 2])["y"].tolist() == [3.0] * 4
    assert runs([torch.ones(3), 5])["y"].tolist() == [6.0] * 3
    assert runs([torch.ones(3, dtype=torch.float64), 2])["y"].dtype == torch.float64
    assert graph.replays == 20


def test_the_number_of_graphs_is_bounded(fake: FakeCuda) -> None:
    runs = GraphRuns(double, fake)
    for size in range(1, MAX_GRAPHS + 4):
        for _ in range(CAPTURED_AFTER + 1):
            runs([torch.ones(size), 1])
    assert len(fake.graphs) == MAX_GRAPHS


def test_a_program_that_cannot_be_captured_is_run_as_before(fake: FakeCuda) -> None:
    def branch(values: Sequence[Any]) -> Mapping[str, Any]:
        return {"y": values[0] if values[0].sum().item() > 0 else -values[0]}

    runs = GraphRuns(branch, fake)
    for _ in range(CAPTURED_AFTER + 3):
        assert runs([-torch.ones(2)])["y"].tolist() == [1.0, 1.0]
    assert not fake.graphs


def test_a_graph_that_answers_otherwise_is_not_used(fake: FakeCuda) -> None:
    state = {"calls": 0}

    def counting(values: Sequence[Any]) -> Mapping[str, Any]:
        state["calls"] += 1
        return {"y": values[0] * state["calls"]}

    runs = GraphRuns(counting, fake)
    for number in range(1, CAPTURED_AFTER + 1):
        assert runs([torch.ones(2)])["y"].tolist() == [number] * 2
    runs([torch.ones(2)])
    assert fake.graphs[0].replays == 1
    runs([torch.ones(2)])
    assert fake.graphs[0].replays == 1


def test_graphs_give_way_to_a_call_that_finds_no_memory(fake: FakeCuda) -> None:
    def large(values: Sequence[Any]) -> Mapping[str, Any]:
        if len(values[0]) > 10:
            raise RuntimeError(TORCH_MEMORY)
        return {"y": values[0] + 1}

    runs = GraphRuns(large, fake)
    for _ in range(CAPTURED_AFTER + 2):
        runs([torch.ones(2)])
    assert fake.graphs[0].replays == 2
    with pytest.raises(RuntimeError, match="out of memory"):
        runs([torch.ones(11)])
    assert runs([torch.ones(2)])["y"].tolist() == [2.0, 2.0]
    assert fake.graphs[0].replays == 2


class Halves(torch.nn.Module):
    def forward(self, x: torch.Tensor, shift: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
        return x / 2 + shift, x.sum(1)


@pytest.fixture
def gpu(fake: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    monkeypatch.setattr(torch_device, "torch_device", lambda name: Gpu(name, fake))
    for module in ("runtimes.torchscript", "runtimes.torch_export"):
        monkeypatch.setattr(f"{module}.torch_device", lambda name: Gpu(name, fake))
    return fake


def test_torchscript_runs_with_graphs(tmp_path: Path, gpu: FakeCuda) -> None:
    path = tmp_path / "model.pt"
    torch.jit.script(Halves()).save(str(path))  # type: ignore[no-untyped-call]
    model = TorchScriptRuntime().load(path, Resources())
    kept = []
    for number in range(CAPTURED_AFTER + 5):
        x = np.full((2, 3), number, np.float32)
        kept.append((number, model.infer({"x": x})))
    for number, outputs in kept:
        halves, sums = outputs.values()
        assert halves.tolist() == [[number / 2 + 1] * 3] * 2
        assert sums.tolist() == [number * 3.0] * 2
    assert gpu.graphs[0].replays == 5
    halves, _ = model.infer({"x": x, "shift": np.array([2.0])}).values()
    assert halves.tolist() == [[number / 2 + 2] * 3] * 2
    model.close()
    with pytest.raises(ExecutionError, match="closed"):
        model.infer({"x": x})


def test_exported_programs_run_with_graphs(tmp_path: Path, gpu: FakeCuda) -> None:
    path = tmp_path / "model.pt2"
    rows = torch.export.Dim("rows", min=1, max=64)
    program = torch.export.export(Halves(), (torch.ones(2, 3),), dynamic_shapes=({0: rows},))
    torch.export.save(program, path)
    model = TorchExportRuntime().load(path, Resources())
    for number in range(CAPTURED_AFTER + 5):
        x = np.full((2, 3), number, np.float32)
        halves, sums = model.infer({model.signature.inputs[0].name: x}).values()
        assert halves.tolist() == [[number / 2 + 1] * 3] * 2
        assert sums.tolist() == [number * 3.0] * 2
    assert gpu.graphs[0].replays == 5


@pytest.mark.parametrize(
    ("resources", "fraction"),
    [
        (Resources(gpus=1), None),
        (Resources(gpus=1, gpu_memory=8 * GIB), (8 * GIB - cuda.CONTEXT_BYTES) / (16 * GIB)),
        (Resources(gpus=0.5), (8 * GIB - cuda.CONTEXT_BYTES) / (16 * GIB)),
        (Resources(gpus=0.5, gpu_memory=64 * GIB), 1.0),
    ],
)
def test_the_memory_of_the_process_is_bounded(
    monkeypatch: pytest.MonkeyPatch, resources: Resources, fraction: float | None
) -> None:
    bounds: list[tuple[float, int]] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    properties = SimpleNamespace(total_memory=16 * GIB)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: properties)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *bound: bounds.append(bound))
    assert prepare(resources) == "cuda:0"
    assert bounds == ([] if fraction is None else [(fraction, 0)])


def test_a_gpu_that_cannot_be_used_is_an_error_with_the_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old")

    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.cuda, "init", refuse)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch_tensors, "cudnn_version", lambda: "9.20.0")
    monkeypatch.setattr(gpu_libraries, "driver_version", lambda: "")
    monkeypatch.setattr(gpu_libraries, "libraries", dict)
    with pytest.raises(LoadError) as refusal:
        prepare(Resources(gpus=1))
    found = "no driver, no package of CUDA, no package of cuDNN"
    assert f"is too old; it wants CUDA 13.0 and cuDNN 9.20.0; found {found})" in str(refusal.value)


def test_the_cpu_shares_memory_and_captures_nothing() -> None:
    cpu = torch_device.torch_device("cpu")
    assert cpu.repeated(double) is double
    array = np.arange(3, dtype=np.float32)
    assert cpu.upload(array).data_ptr() == array.ctypes.data
    assert torch_graphs.MAX_GRAPHS == MAX_GRAPHS


def test_what_is_called_of_pytorch_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = inspect.signature(torch.cuda.graph.__init__).parameters
    calls: dict[str, Any] = {}

    class Stream:
        def __init__(self, device: torch.device) -> None:
            calls["device"] = device

        def synchronize(self) -> None:
            calls["synchronized"] = True

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "pool")
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, **options: (graph, options))
    own = torch_device.TorchCuda("cuda:0")
    assert calls["device"] == torch.device("cuda:0")
    own.synchronize()
    assert calls["synchronized"]
    captured: Any = own.capture("a graph")
    graph, options = captured
    assert graph == "a graph"
    assert options["pool"] == "pool"
    assert isinstance(options["stream"], Stream)
    assert options["capture_error_mode"] == "thread_local"
    assert options.keys() <= parameters.keys()
    assert isinstance(torch_device.torch_device("cuda:0"), Gpu)
