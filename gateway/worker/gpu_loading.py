"""The GPUs that a worker's model is to be loaded on: how much it asks for, and what it gets."""

from __future__ import annotations

from collections.abc import Callable

from gateway.contract import WorkerSpec
from gateway.errors import NoMemory, UnusableModel
from gateway.gpus.nvml import read_gpus
from gateway.gpus.placement import Unplaced
from gateway.kits.gpu_memory import believed, gpu_count, gpu_demand, gpu_need, least_bytes
from gateway.kits.language import LanguageModel
from gateway.kits.library import UnpackedKit
from gateway.worker.gpu_admission import GPU_DIRECTORY, GpuAdmission, Placed
from runtimes.base import Resources
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
    measured = believed(spec.gpu_bytes, least_bytes(choice), _room(resources))
    # The estimate takes a process of its own, and seconds.
    is_known = resources.gpu_memory is not None or measured is not None
    need = None if is_known else gpu_need(kit, choice, language, spec.serving)
    demand = gpu_demand(resources, need, measured)
    try:
        return admission.admit(demand, is_reserved=resources.reserved_gpus > 0)
    except Unplaced as error:
        kind = NoMemory if error.may_pass else UnusableModel
        raise kind(f"{spec.reference}: {error}") from error


def _room(resources: Resources) -> int:
    """Return the bytes of as many of the largest GPUs as a worker gets."""
    totals = sorted((device.total or 0 for device in read_gpus().devices), reverse=True)
    return sum(totals[: gpu_count(resources)])
