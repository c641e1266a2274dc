"""What a machine or cluster has of what models ask for, in words. Pure.

On one machine, a config that can never run as a whole is refused. On a cluster it waits, as that may grow.
CPUs are reserved on a cluster alone; on one machine they are a number of threads, and never too many to run.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.control.state.desired import Desired, DesiredModel

_COUNTED = ("CPU", "GPU")


def gpu_faults(desired: Desired, gpus: float) -> list[str]:
    """Return why a config cannot run on a machine with so many GPUs, a line for each fault.

    Models that may sleep can have a GPU in turn, so each of them must find one, and no more.
    """
    faults = [
        f"models: {model.name} asks for {_amount(number, 'GPU')} for each worker; this machine has {gpus:g}"
        for model in desired.models
        if (number := model.serving.resources.reserved_gpus) > gpus
    ]
    sums = {model.name: _gpus_at_once(model) for model in desired.models}
    total = sum(sums.values())
    if faults or total <= gpus:
        return faults
    parts = ", ".join(f"{name} {number:g}" for name, number in sums.items() if number)
    return [f"models: they ask for {_amount(total, 'GPU')} in all ({parts}); this machine has {gpus:g}"]


def waiting_message(
    requested: Mapping[str, float], free: Mapping[str, float], total: Mapping[str, float]
) -> str:
    """Return what a worker waits for that no node has free; all are amounts of Ray's resources."""
    if not requested:
        return "waits for Ray to start its worker"
    needed = " and ".join(_amount(number, name) for name, number in requested.items())
    parts = (f"{free.get(name, 0.0):g} of {_amount(total.get(name, 0.0), name)}" for name in requested)
    return f"waits for a node with {needed} free: on all nodes together, {' and '.join(parts)} are free"


def _gpus_at_once(model: DesiredModel) -> float:
    scaling = model.serving.scaling
    return model.serving.resources.reserved_gpus * scaling.min * len(model.kits)


def _amount(number: float, unit: str) -> str:
    return f"{number:g} {unit}" if number == 1 or unit not in _COUNTED else f"{number:g} {unit}s"
