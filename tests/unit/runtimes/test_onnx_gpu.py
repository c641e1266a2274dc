"""ONNX Runtime on a GPU: its options as they are built, and its calls on a session of the CPU."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from runtimes import cuda, gpu_libraries, onnx_binding, onnx_providers
from runtimes.base import Array, Datatype, Resources
from runtimes.errors import ExecutionError, LoadError
from runtimes.onnx import OnnxRuntime
from runtimes.onnx_providers import CPU, CUDA, TENSORRT
from tests.support.fake_cuda import FakeDriver, FakeRuntime, nowhere
from tests.support.gpu_errors import ARENA_MEMORY
from tests.support.model_files import node, onnx_model, value_info

GIB = 1 << 30
ALL = (TENSORRT, CUDA, CPU)
# ONNX's numbers of element types that numpy has.
ELEMENTS = {1: "FP32", 2: "UINT8", 3: "INT8", 6: "INT32", 7: "INT64", 9: "BOOL", 10: "FP16", 11: "FP64"}
NO_OPTIONS = onnxruntime.RunOptions()


@pytest.fixture
def written(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(data: bytes) -> Path:
        path = tmp_path / "model.onnx"
        path.write_bytes(data)
        return path

    return write


def doubling(element: int = 1) -> bytes:
    operator = node("Or" if element == 9 else "Add", ["x", "x"], ["y"])
    return onnx_model([operator], [value_info("x", element, ["n", 3])], [value_info("y", element, ["n", 3])])


class GpuSession:
    """A session of the CPU that says it has the providers that were asked for, or `loaded` of them."""

    asked: tuple[onnx_providers.Provider, ...] = ()
    loaded: tuple[str, ...] = ALL
    real: Any = onnxruntime.InferenceSession

    def __init__(self, path: str, options: Any, providers: list[onnx_providers.Provider]) -> None:
        GpuSession.asked = tuple(providers)
        self._session = GpuSession.real(path, options, providers=[CPU])

    def get_providers(self) -> list[str]:
        return [name for name, _ in self.asked if name in self.loaded]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> FakeRuntime:
    """A GPU for ONNX Runtime; CUDA's runtime library."""
    library = FakeRuntime()
    pinned = cuda.PinnedMemory
    monkeypatch.setattr(cuda, "PinnedMemory", lambda: pinned(lambda _name: library))
    monkeypatch.setattr(onnxruntime, "InferenceSession", GpuSession)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("Failed to load libcublas.so.13"))
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(ALL))
    monkeypatch.setattr(GpuSession, "loaded", ALL)
    return library


def test_the_arena_is_bounded_by_the_share() -> None:
    assert "gpu_mem_limit" not in onnx_providers.cuda_options(None)
    assert "arena_extend_strategy" not in onnx_providers.cuda_options(None)
    bounded = onnx_providers.cuda_options(6 * GIB)
    assert int(bounded["gpu_mem_limit"]) == 6 * GIB - cuda.CONTEXT_BYTES
    assert bounded["arena_extend_strategy"] == "kSameAsRequested"
    assert bounded["cudnn_conv_use_max_workspace"] == "0"
    assert cuda.engine_bytes(GIB // 2) == GIB // 4
    # ONNX Runtime takes text alone.
    assert all(isinstance(value, str) for value in bounded.values())


def test_a_part_of_a_gpu_is_a_part_of_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cuda.total_bytes(lambda _name: FakeDriver(memory=8 * GIB)) == 8 * GIB
    assert cuda.total_bytes(nowhere) is cuda.total_bytes(lambda _name: FakeDriver(status=100)) is None
    monkeypatch.setattr(cuda, "total_bytes", lambda: 8 * GIB)
    for resources, share in (
        (Resources(gpus=0.5), 4 * GIB),
        (Resources(gpus=0.5, gpu_memory=GIB), GIB),
        (Resources(gpus=1), None),
    ):
        (_, options), *_ = onnx_providers.providers((CUDA, CPU), resources)
        assert options == onnx_providers.cuda_options(share)
    monkeypatch.setattr(cuda, "total_bytes", lambda: None)
    (_, options), *_ = onnx_providers.providers((CUDA, CPU), Resources(gpus=0.5))
    assert options == onnx_providers.cuda_options(None)


def test_tensorrt_is_used_where_its_libraries_and_a_place_for_engines_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_cache = Resources(gpus=1, gpu_memory=2 * GIB, engine_cache=tmp_path)
    names = [name for name, _ in onnx_providers.providers(ALL, with_cache)]
    assert names == [CUDA, CPU], "TensorRT's libraries are not here"
    monkeypatch.setattr(onnx_providers, "has_tensorrt", lambda: True)
    (name, options), *others = onnx_providers.providers(ALL, with_cache)
    assert (name, [other for other, _ in others]) == (TENSORRT, [CUDA, CPU])
    assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"] == str(tmp_path)
    assert options["trt_max_workspace_size"] == str(GIB // 2)
    assert onnx_providers.providers(ALL, Resources(gpus=1))[0][0] == CUDA
    assert onnx_providers.providers((CUDA, CPU), with_cache)[0][0] == CUDA


def test_a_model_is_loaded_with_these_options_and_answers(
    written: Callable[[bytes], Path], library: FakeRuntime, capsys: pytest.CaptureFixture[str]
) -> None:
    model = OnnxRuntime().load(written(doubling()), Resources(gpus=0.5, gpu_memory=GIB))
    assert [name for name, _ in GpuSession.asked] == [CUDA, CPU]
    assert GpuSession.asked[0][1] == onnx_providers.cuda_options(GIB)
    assert capsys.readouterr().out == ""
    assert model.device == "cuda:0"
    for rows in (1, 2, 1, 1):
        x = np.full((rows, 3), rows, np.float32)
        answer = model.infer({"x": x})["y"]
        assert answer.tolist() == (x + x).tolist()
    assert library.held, "buffers are page-locked"
    model.close()
    with pytest.raises(ExecutionError, match="closed"):
        model.infer({"x": x})
    gc.collect()
    assert not library.held


def test_after_a_call_without_memory_the_arena_gives_back(
    written: Callable[[bytes], Path],
    library: FakeRuntime,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shrinks: list[bool] = []

    def run(session: GpuSession, binding: Any, options: Any) -> None:
        try:
            options.get_run_config_entry("memory.enable_memory_arena_shrinkage")
            shrinks.append(True)
        except Exception:
            shrinks.append(False)
        if len(shrinks) == 2:
            raise RuntimeError(ARENA_MEMORY)
        session._session.run_with_iobinding(binding)

    monkeypatch.setattr(GpuSession, "run_with_iobinding", run, raising=False)
    model = OnnxRuntime().load(written(doubling()), Resources(gpus=1))
    x = {"x": np.ones((1, 3), np.float32)}
    model.infer(x)
    with pytest.raises(ExecutionError, match="Available memory of"):
        model.infer(x)
    for _ in range(2):
        assert model.infer(x)["y"].tolist() == [[2.0] * 3]
    assert shrinks == [False, False, True, False]
    assert model.runs_at_once == 2
    assert library.held


@pytest.mark.parametrize("absent", [CUDA, TENSORRT])
def test_a_provider_that_was_not_loaded_is_an_error_with_its_reason(
    written: Callable[[bytes], Path],
    library: FakeRuntime,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    absent: str,
) -> None:
    monkeypatch.setattr(onnx_providers, "has_tensorrt", lambda: True)
    monkeypatch.setattr(cuda, "driver_trouble", lambda: "")
    monkeypatch.setattr(GpuSession, "loaded", tuple(name for name in ALL if name != absent))
    with pytest.raises(LoadError, match=r"built for CUDA .* could not load its .* provider \(lib.*so"):
        OnnxRuntime().load(written(doubling()), Resources(gpus=1, engine_cache=tmp_path))


def test_without_a_driver_it_says_so(
    written: Callable[[bytes], Path],
    library: FakeRuntime,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cuda, "driver_trouble", lambda: "no driver: libcuda.so.1 is not here")
    monkeypatch.setattr(GpuSession, "loaded", (CPU,))
    monkeypatch.setattr(gpu_libraries, "driver_version", lambda: "12.4")
    monkeypatch.setattr(gpu_libraries, "libraries", lambda: {"CUDA": "12.8.90"})
    monkeypatch.setattr(onnxruntime, "cuda_version", "13.0", raising=False)
    with pytest.raises(LoadError, match=r"finds no usable GPU \(no driver: libcuda") as refusal:
        OnnxRuntime().load(written(doubling()), Resources(gpus=1))
    versions = "a driver for CUDA 12.4, CUDA 12.8.90, no package of cuDNN"
    assert f"; it wants CUDA 13.0 and cuDNN 9; found {versions}; install" in str(refusal.value)


def test_what_the_driver_says() -> None:
    assert cuda.driver_trouble(lambda _name: FakeDriver()) == ""
    assert cuda.driver_trouble(lambda _name: FakeDriver(devices=0)) == "no CUDA-capable device is visible"
    refused = cuda.driver_trouble(lambda _name: FakeDriver(status=100))
    assert refused == "cuInit: no CUDA-capable device is detected (100)"
    assert cuda.driver_trouble(nowhere) == "no driver: libcuda.so.1: cannot open shared object file"
    assert cuda.driver_version(lambda _name: FakeDriver()) == "13.2"
    assert cuda.driver_version(nowhere) == cuda.driver_version(lambda _name: FakeDriver(status=1)) == ""


def test_page_locked_memory_is_freed_with_its_last_array() -> None:
    library = FakeRuntime(memory=100)
    memory = cuda.PinnedMemory(lambda _name: library)
    array = memory.allocate(64)
    assert array is not None
    assert memory.allocate(64) is None
    row = array[:8].view(np.float32)
    row[:] = 7
    del array
    assert library.held
    del row
    assert not library.held
    with pytest.raises(OSError, match="libcudart"):
        cuda.PinnedMemory(nowhere)


def session_of(path: Path) -> Any:
    return onnxruntime.InferenceSession(str(path), providers=[CPU])


def of_numpy(size: int) -> Array:
    return np.empty(size, np.uint8)


@pytest.mark.parametrize("element", ELEMENTS)
def test_bound_runs_answer_as_others_do(written: Callable[[bytes], Path], element: int) -> None:
    session = session_of(written(doubling(element)))
    bound = onnx_binding.bound(session, of_numpy)
    assert isinstance(bound, onnx_binding.BoundRuns)
    kept = []
    for rows in (2, 2, 5, 1, 5, 0, 0):
        x = np.arange(rows * 6).reshape(rows, 6)[:, ::2].astype(Datatype(ELEMENTS[element]).numpy)
        (answer,) = bound(["y"], {"x": x}, NO_OPTIONS)
        (expected,) = session.run(["y"], {"x": x})
        kept.append((answer, expected))
    # Answers are no views of buffers that later calls write to.
    for answer, expected in kept:
        assert (answer.dtype, answer.shape) == (expected.dtype, expected.shape)
        assert answer.tolist() == expected.tolist()


def test_outputs_whose_shape_depends_on_the_values_are_not_bound(written: Callable[[bytes], Path]) -> None:
    data = onnx_model(
        [node("NonZero", ["x"], ["y"])], [value_info("x", 1, ["n"])], [value_info("y", 7, [1, "m"])]
    )
    bound = onnx_binding.bound(session_of(written(data)), of_numpy)
    for values in ([1, 0, 1], [1, 0, 1], [0, 0, 1], [0, 0, 0], [1, 1, 1]):
        (answer,) = bound(["y"], {"x": np.array(values, np.float32)}, NO_OPTIONS)
        assert answer.tolist() == [list(np.flatnonzero(values))]


def test_without_page_locked_memory_runs_go_on(written: Callable[[bytes], Path]) -> None:
    bound = onnx_binding.bound(session_of(written(doubling())), lambda _size: None)
    for _ in range(3):
        (answer,) = bound(["y"], {"x": np.ones((2, 3), np.float32)}, NO_OPTIONS)
        assert answer.tolist() == [[2.0] * 3] * 2


def test_models_of_strings_and_sequences_are_not_bound(written: Callable[[bytes], Path]) -> None:
    data = onnx_model(
        [node("Identity", ["x"], ["y"])], [value_info("x", 8, ["n"])], [value_info("y", 8, ["n"])]
    )
    assert not isinstance(onnx_binding.bound(session_of(written(data)), of_numpy), onnx_binding.BoundRuns)


def test_several_threads_use_buffers_of_their_own(written: Callable[[bytes], Path]) -> None:
    bound = onnx_binding.bound(session_of(written(doubling())), of_numpy)
    wrong: list[int] = []

    def ask(number: int) -> None:
        x = np.full((64, 3), number, np.float32)
        for _ in range(100):
            (answer,) = bound(["y"], {"x": x}, NO_OPTIONS)
            if not (answer == 2 * number).all():
                wrong.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
