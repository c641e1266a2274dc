"""What the models of a config would take of GPUs, as far as their kits are on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gateway.config.config import GatewayConfig
from gateway.control.state.desired import DesiredModel, desired_from
from gateway.errors import KitserveError
from gateway.gpus.diagnosis import ModelDemand
from gateway.gpus.placement import Demand
from gateway.kits.examination import examine
from gateway.kits.gpu_memory import gpu_demand, gpu_need
from gateway.kits.library import Library, cache_directory
from gateway.oci.pinned import PinnedReference
from gateway.oci.reference import Reference

_NOT_HERE = "what is known once its kit is here (`kitserve pull`)"


def model_demands(config: GatewayConfig, home: Path) -> Iterator[ModelDemand]:
    """Yield what the workers of each model ask for; of kits that are not here, that this is not known."""
    desired = desired_from(config)
    directory = cache_directory(home)
    library = None
    if directory.is_dir():
        library = Library(directory, desired.sources, desired.cache_limit, is_preview=True)
    for model in desired.models:
        resources = model.serving.resources
        for kit in model.kits:
            try:
                demand, reason = _demand(library, model, kit)
            except KitserveError as error:
                demand, reason = None, str(error)
            yield ModelDemand(
                model.name,
                str(kit),
                model.serving.scaling.first,
                resources.wants_gpu,
                resources.may_use_cpu,
                demand,
                reason,
            )


def _demand(library: Library | None, model: DesiredModel, kit: Reference) -> tuple[Demand | None, str]:
    """Return what a worker asks for, and else why that is not known."""
    resources = model.serving.resources
    if resources.gpu_memory is not None:
        return gpu_demand(resources, None, None), ""
    if library is None:
        return None, _NOT_HERE
    pinned = model.canary.parents if model.canary is not None and kit == model.canary.kit else model.parents
    parents = [parent.reference for parent in pinned]
    described = library.describe(kit, model.policy, parents=parents)
    if not library.has_unpacked(described, library.judge(described, model.policy)):
        return None, _NOT_HERE
    examined = examine(
        library,
        described,
        model.policy,
        runtime=model.runtime,
        file=model.file_of(PinnedReference.of(kit, described.digest)),
        serving=model.serving,
    )
    try:
        need = gpu_need(examined.unpacked, examined.choice, examined.language, model.serving)
    finally:
        examined.unpacked.lease.release()
    return gpu_demand(resources, need, None), ""
