"""The GPUs that a worker's model is to be loaded on: how much it asks for, and what it gets."""

from __future__ import annotations

from collections.abc import Callable

from gateway.contract import WorkerSpec
from gateway.errors import NoMemory, UnusableModel
from gateway.gpus.placement import Unplaced
from gateway.kits.gpu_memory import gpu_demand, gpu_need
from gateway.kits.language import LanguageModel
from gateway.kits.library import UnpackedKit
from gateway.worker.gpu_admission import GPU_DIRECTORY, GpuAdmission, Placed
from runtimes.select import Choice


def claim_gpus(
    spec: WorkerSpec,
    kit: UnpackedKit,
    choice: Choice,
    language: LanguageModel,
    waits: Callable[[str], None],
) -> Placed | None:
    """Claim GPUs with room for a model; None where Ray chose them and NVML does not know them.

    `waits` is called with the reason while there is no room.

    Raises:
        NoMemory: where there may be room later.
        UnusableModel: where there never is.
    """
    resources = spec.serving.resources
    admission = GpuAdmission(spec.node.home / GPU_DIRECTORY, visible=spec.node.visible_gpus, waits=waits)
    demand = gpu_demand(resources, gpu_need(kit, choice, language, spec.serving), spec.gpu_bytes)
    try:
        return admission.admit(demand, is_reserved=resources.reserved_gpus > 0)
    except Unplaced as error:
        kind = NoMemory if error.may_pass else UnusableModel
        raise kind(f"{spec.reference}: {error}") from error
