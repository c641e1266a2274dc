"""What keeps models off GPUs, and what would be served where."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.gpus.devices import Gpu, Gpus
from gateway.gpus.diagnosis import ModelDemand, machine_faults, verdicts
from gateway.gpus.placement import Demand
from runtimes.gpu_libraries import Engine, engines
from tests.support.fake_nvml import GIB

PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
ORT = Engine("ONNX Runtime", "1.31.1", "13.0", PROVIDERS)
TORCH = Engine("PyTorch", "2.11", "13.0", cudnn="9.20.0")
BROUGHT = {"CUDA": "13.0.96", "cuDNN": "9.20.0.48"}
L4 = Gpus((Gpu(0, "GPU-0", "L4", 24 * GIB, 20 * GIB),), "580.65.06", "13.0")


def model(name: str, size: int | None, workers: int = 1, **fields: bool) -> ModelDemand:
    demand = Demand(None if size is None else size * GIB, f"{size} GiB")
    flags = {"wants_gpu": True, "may_use_cpu": False, **fields}
    return ModelDemand(name, "v1", workers, flags["wants_gpu"], flags["may_use_cpu"], demand)


def test_nothing_is_to_be_mended_where_all_fits() -> None:
    assert list(machine_faults(L4, (ORT, TORCH), BROUGHT)) == []


@pytest.mark.parametrize(
    ("gpus", "engine", "libraries", "fault"),
    [
        (Gpus(trouble="no driver of NVIDIA's is installed"), ORT, BROUGHT, "install NVIDIA's driver"),
        (Gpus((), "580.65.06", "13.0"), ORT, BROUGHT, "the driver finds no GPU"),
        (
            Gpus(L4.gpus, "550.54", "12.4"),
            ORT,
            BROUGHT,
            "ONNX Runtime 1.31.1 is built for CUDA 13.0, and the driver 550.54 runs CUDA 12.4 at most; "
            "install a newer driver",
        ),
        (L4, Engine("ONNX Runtime", "1.31.1", "", PROVIDERS[1:]), BROUGHT, "install onnxruntime-gpu"),
        (L4, Engine("PyTorch", "2.11", ""), BROUGHT, "built without CUDA; install a build of torch for CUDA"),
        (
            L4,
            ORT,
            {"CUDA": "13.0.96"},
            "brings cuDNN; install it on the system, a torch for CUDA 13",
        ),
        (Gpus((Gpu(0, "GPU-0", is_mig=True),)), ORT, BROUGHT, "GPU 0 has MIG on, and no slices"),
    ],
)
def test_each_fault_says_what_mends_it(
    gpus: Gpus, engine: Engine, libraries: dict[str, str], fault: str
) -> None:
    (text,) = machine_faults(gpus, (engine,), libraries)
    assert fault in text


def test_models_are_placed_one_after_the_other() -> None:
    first, second, third = verdicts([model("a", 9), model("b", 9), model("c", 9)], L4)
    assert (first.devices, second.devices) == (("GPU 0 (L4)",), ("GPU 0 (L4)",))
    assert third.fault == (
        "c: needs 9 GiB; GPU 0 (L4) has 20.0 GiB free of 24.0 GiB, "
        "of which workers that run may take 18.0 GiB"
    )


def test_a_model_that_prefers_a_gpu_has_no_fault_on_the_cpu() -> None:
    (verdict,) = verdicts([model("a", 15, workers=2, may_use_cpu=True)], L4)
    assert (verdict.devices, verdict.fault) == (("GPU 0 (L4)", "cpu"), "")
    (verdict,) = verdicts([model("a", 15, wants_gpu=False)], Gpus(trouble="none"))
    assert (verdict.devices, verdict.needs) == (("cpu",), "15 GiB")


def test_the_engines_here_tell_what_they_were_built_for() -> None:
    names = {engine.name: engine for engine in engines()}
    assert names["ONNX Runtime"].version
    assert names["PyTorch"].version


def test_without_any_gpu_a_model_that_must_have_one_fails_whatever_it_needs() -> None:
    unknown = replace(model("chat", None), demand=None, reason="its kit is not here")
    (verdict,) = verdicts([unknown], Gpus(trouble="no driver"))
    assert (verdict.needs, verdict.fault) == (
        "its kit is not here",
        "chat: it needs a GPU, and there is none: no driver",
    )
    (verdict,) = verdicts([replace(unknown, may_use_cpu=True)], Gpus(trouble="no driver"))
    assert (verdict.devices, verdict.fault) == (("cpu",), "")
    (verdict,) = verdicts([unknown], L4)
    assert (verdict.devices, verdict.fault) == ((), "")
