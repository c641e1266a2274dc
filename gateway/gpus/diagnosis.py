"""What keeps models off GPUs on this machine, and what to do about it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gateway.gpus.devices import Gpus
from gateway.gpus.placement import Claim, Demand, Unplaced, describe, place
from runtimes.gpu_libraries import Engine


@dataclass(frozen=True, slots=True)
class ModelDemand:
    """What the workers of one version ask for; `demand` is None where that is not known yet."""

    model: str
    version: str
    workers: int
    wants_gpu: bool
    may_use_cpu: bool
    demand: Demand | None
    reason: str = ""
    """Why it is not known."""


@dataclass(frozen=True, slots=True)
class ModelVerdict:
    """Where the workers of one version would compute."""

    model: str
    version: str
    needs: str
    """Of a GPU: the sum, or why it is not known."""
    devices: tuple[str, ...]
    """What each worker would get: a GPU, or "cpu"."""
    fault: str = ""
    """Why it would not be served as the config has it; "" for nothing."""


def machine_faults(gpus: Gpus, engines: Sequence[Engine], libraries: Mapping[str, str]) -> Iterator[str]:
    """Yield what is wrong with the driver and the engines, each with what mends it."""
    if gpus.trouble:
        advice = "install NVIDIA's driver, and give a container its GPUs (`docker run --gpus all`)"
        yield f"{gpus.trouble}; {advice}"
    elif not gpus.gpus:
        yield "the driver finds no GPU; look at `nvidia-smi` and the kernel's log"
    for gpu in gpus:
        if gpu.is_mig and not gpu.slices:
            yield f"{describe(gpu)} has MIG on, and no slices: make some, or turn MIG off"
    for engine in engines:
        yield from _engine_faults(engine, gpus, libraries)


def verdicts(models: Sequence[ModelDemand], gpus: Gpus, visible: str | None = None) -> Iterator[ModelVerdict]:
    """Yield where the workers of models would compute, if all were started on the GPUs as they are now."""
    claims: list[Claim] = []
    for model in models:
        if not model.wants_gpu:
            needs = model.demand.terms if model.demand is not None else model.reason
            yield ModelVerdict(model.model, model.version, needs, ("cpu",) * model.workers)
        elif model.demand is None and gpus.devices:
            yield ModelVerdict(model.model, model.version, model.reason, ())
        else:
            # Where there is no GPU at all, it does not matter how much memory is needed.
            demand = model.demand or Demand(None, model.reason)
            yield _verdict(model, demand, gpus, claims, visible)


def _verdict(
    model: ModelDemand, demand: Demand, gpus: Gpus, claims: list[Claim], visible: str | None
) -> ModelVerdict:
    devices: list[str] = []
    for _ in range(model.workers):
        try:
            placed = place(demand, gpus, claims, visible)
        except Unplaced as error:
            if not model.may_use_cpu:
                fault = f"{model.model}: {error}"
                return ModelVerdict(model.model, model.version, demand.terms, tuple(devices), fault)
            devices.append("cpu")
            continue
        is_whole = demand.is_whole or demand.size is None
        claims.append(Claim(tuple(device.uuid for device in placed), demand.size or 0, is_whole))
        devices.append(", ".join(map(describe, placed)))
    return ModelVerdict(model.model, model.version, demand.terms, tuple(devices))


def _engine_faults(engine: Engine, gpus: Gpus, libraries: Mapping[str, str]) -> Iterator[str]:
    name = f"{engine.name} {engine.version}"
    if not engine.can_use_gpus:
        package = "onnxruntime-gpu" if engine.providers else "a build of torch for CUDA"
        yield f"{name} is built without CUDA; install {package}"
        return
    if gpus.cuda and _numbers(gpus.cuda)[:1] < _numbers(engine.cuda)[:1]:
        yield (
            f"{name} is built for CUDA {engine.cuda}, and the driver {gpus.driver} runs CUDA {gpus.cuda} at "
            f"most; install a newer driver, or a build for CUDA {gpus.cuda}"
        )
    major = engine.cuda.partition(".")[0]
    for library, package in (("CUDA", "nvidia-cuda-runtime"), ("cuDNN", f"nvidia-cudnn-cu{major}")):
        if engine.providers and library not in libraries:
            yield (
                f"{name} is built for CUDA {engine.cuda}, and no package brings {library}; install it on the "
                f"system, a torch for CUDA {major}, or {package}"
            )


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(".") if part.isdigit()]
