"""Which GPU a worker gets, by the memory that is free and that others have claimed. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gateway.gpus.devices import Gpu, Gpus, MigSlice
from gateway.wording import size

Device = Gpu | MigSlice


@dataclass(frozen=True, slots=True)
class Claim:
    """What a worker that lives has been given."""

    devices: tuple[str, ...]
    """The UUIDs of GPUs and slices."""
    size: int
    """Bytes of each that it may still take, beside those that it has."""
    is_whole: bool = False
    """Whether nobody else is to have these GPUs."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What a worker is to get."""

    size: int | None
    """Bytes of memory on each GPU; None: nobody knows, so it gets whole ones."""
    terms: str
    """The same as a sum, in words: "9.2 GiB: 7.9 GiB weights + 1.3 GiB key-value cache"."""
    names: tuple[str, ...] = ()
    """The GPUs that it must have, by index or UUID; () for one of any."""
    is_whole: bool = False
    """Whether nobody else is to have them."""


class Unplaced(Exception):
    """There is no such GPU, or none with so much room; `may_pass` says whether there may be room later."""

    def __init__(self, message: str, may_pass: bool) -> None:
        super().__init__(message)
        self.may_pass = may_pass


def place(
    demand: Demand, gpus: Gpus, claims: Sequence[Claim], visible: str | None = None
) -> tuple[Device, ...]:
    """Return the GPUs for a worker: those that it names, or the one with the least room that is enough.

    Args:
        demand: what it is to get.
        gpus: what there is.
        claims: those of all other workers.
        visible: the GPUs that Kitserve may use at all, as CUDA_VISIBLE_DEVICES names them; None: all.

    Raises:
        Unplaced: with the sum, and what each GPU has.
    """
    if not gpus.devices:
        reason = gpus.trouble or "NVML finds no GPU"
        raise Unplaced(f"it needs a GPU, and there is none: {reason}", may_pass=False)
    if demand.names:
        devices = tuple(_named(name, gpus) for name in demand.names)
        full = [device for device in devices if not _fits(demand, device, claims)]
    else:
        allowed = _visible(gpus, visible)
        candidates = [device for device in allowed if _fits(demand, device, claims)]
        devices = tuple(sorted(candidates, key=lambda device: _room(device, claims))[:1])
        full = [] if devices else allowed
    if not full:
        return devices
    can_ever_fit = [demand.size is None or demand.size <= (device.total or 0) for device in full]
    may_pass = all(can_ever_fit) if demand.names else any(can_ever_fit)
    stands = "; ".join(_state(device, claims) for device in full)
    raise Unplaced(f"needs {demand.terms}; {stands}", may_pass)


def describe(device: Device) -> str:
    """Return how people are told of a GPU: "GPU 0 (NVIDIA H100)"."""
    label = f"GPU {device.index}" if isinstance(device, Gpu) else device.uuid
    return f"{label} ({device.name})" if device.name else label


def cuda_environment(devices: Sequence[Device], gpus: Gpus) -> dict[str, str]:
    """Return the variables by which CUDA sees these GPUs alone, in this order."""
    # Not every engine takes UUIDs; beside slices of MIG, CUDA and NVML number GPUs differently.
    has_mig = any(gpu.is_mig for gpu in gpus)
    names = [
        str(device.index) if isinstance(device, Gpu) and not has_mig else device.uuid for device in devices
    ]
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(names)}


def _named(name: str, gpus: Gpus) -> Device:
    device = gpus.device(name)
    if device is None:
        there = ", ".join(f"{describe(each)} {each.uuid}" for each in gpus.devices)
        raise Unplaced(f"`device` names {name}, and this machine has {there}", may_pass=False)
    if isinstance(device, Gpu) and device.is_mig:
        slices = ", ".join(part.uuid for part in device.slices) or "none"
        raise Unplaced(
            f"{describe(device)} has MIG on, so that its slices alone compute: name one ({slices})",
            may_pass=False,
        )
    return device


def _visible(gpus: Gpus, visible: str | None) -> list[Device]:
    if visible is None:
        return list(gpus.devices)
    devices = [gpus.device(name.strip()) for name in visible.split(",")]
    allowed = [device for device in devices if device in gpus.devices and device is not None]
    if not allowed:
        raise Unplaced(
            f"CUDA_VISIBLE_DEVICES of `kitserve serve` is {visible!r}, which names no GPU here",
            may_pass=False,
        )
    return allowed


def _fits(demand: Demand, device: Device, claims: Iterable[Claim]) -> bool:
    others = [claim for claim in claims if device.uuid in claim.devices]
    if any(claim.is_whole for claim in others):
        return False
    if demand.size is None or demand.is_whole:
        return not others and (demand.size or 0) <= _room(device, others)
    return demand.size <= _room(device, others)


def _room(device: Device, claims: Iterable[Claim]) -> int:
    """Return the bytes that are free and not claimed."""
    return (device.free or 0) - sum(claim.size for claim in claims if device.uuid in claim.devices)


def _state(device: Device, claims: Iterable[Claim]) -> str:
    """Return what of a GPU is free: "GPU 0 has 6.1 GiB free of 23.7 GiB"."""
    others = [claim for claim in claims if device.uuid in claim.devices]
    if any(claim.is_whole for claim in others):
        return f"{describe(device)} is another worker's alone"
    claimed = sum(claim.size for claim in others)
    more = f", of which workers that run may take {size(claimed)}" if claimed else ""
    return f"{describe(device)} has {size(device.free)} free of {size(device.total)}{more}"
