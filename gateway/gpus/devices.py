"""What a GPU is and does at one moment, and what of it is MIG's. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

THROTTLE_REASONS = (
    "applications_clocks_setting",
    "sw_power_cap",
    "hw_slowdown",
    "sync_boost",
    "sw_thermal_slowdown",
    "hw_thermal_slowdown",
    "hw_power_brake_slowdown",
    "display_clock_setting",
)
"""Why clocks may be lower than they could be, in the order of the bits of nvml.h, nvmlClocksEventReasons."""


@dataclass(frozen=True, slots=True)
class MigSlice:
    """A MIG device: a part of a GPU that programs see as a GPU of its own."""

    uuid: str
    """As CUDA_VISIBLE_DEVICES takes it: "MIG-…"."""
    name: str
    total: int | None
    """Bytes of its memory; None where it does not tell, as for `free`."""
    free: int | None
    processes: Mapping[int, int] = field(default_factory=dict)
    """As for a GPU."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU; None for what it does not tell."""

    index: int
    """Its place in the order of the PCI bus, as `nvidia-smi` numbers GPUs."""
    uuid: str
    name: str = ""
    total: int | None = None
    """Bytes of its memory."""
    free: int | None = None
    """What of that nobody has taken."""
    utilization: float | None = None
    """The part of the last moment in which it computed, 0 to 1."""
    power: float | None = None
    """Watts that it takes now."""
    power_limit: float | None = None
    """Watts that it may take."""
    throttle_reasons: tuple[str, ...] = ()
    """Why its clocks are lower than they could be, in NVML's words; none for an idle GPU."""
    compute_capability: tuple[int, int] | None = None
    """CUDA's number of its generation: (9, 0)."""
    is_mig: bool = False
    """Whether MIG is on: then only its slices compute."""
    slices: tuple[MigSlice, ...] = ()
    processes: Mapping[int, int] = field(default_factory=dict)
    """Bytes of memory by process; without processes that it does not tell of."""

    @property
    def used(self) -> int | None:
        """How many bytes of its memory are in use, by whomever."""
        return None if self.total is None or self.free is None else self.total - self.free


@dataclass(frozen=True, slots=True)
class Gpus:
    """All GPUs of a machine, and what drives them."""

    gpus: tuple[Gpu, ...] = ()
    """In the order of their index."""
    driver: str = ""
    """The driver's version, such as "580.65.06"; "" where there is none."""
    cuda: str = ""
    """The newest CUDA that the driver can run, such as "13.0"."""
    trouble: str = ""
    """Why nothing is told; "" where NVML answers."""

    def __iter__(self) -> Iterator[Gpu]:
        return iter(self.gpus)

    def __len__(self) -> int:
        return len(self.gpus)

    @property
    def devices(self) -> tuple[Gpu | MigSlice, ...]:
        """What computes: each GPU, but of one with MIG its slices."""
        return tuple(device for gpu in self.gpus for device in (gpu.slices if gpu.is_mig else (gpu,)))

    def device(self, name: str) -> Gpu | MigSlice | None:
        """Return a GPU by its index or UUID, or a slice by its UUID; None where there is none."""
        for gpu in self.gpus:
            if name in (str(gpu.index), gpu.uuid):
                return gpu
            for part in gpu.slices:
                if name == part.uuid:
                    return part
        return None

    def process_bytes(self, process: int) -> int | None:
        """Return the memory that a process has on all GPUs; None where no GPU tells of the process."""
        maps = [mapping for gpu in self.gpus for mapping in _process_maps(gpu)]
        sizes = [mapping[process] for mapping in maps if process in mapping]
        return sum(sizes) if sizes else None


def _process_maps(gpu: Gpu) -> Iterator[Mapping[int, int]]:
    """Yield what a GPU and its slices tell of processes."""
    yield gpu.processes
    yield from (part.processes for part in gpu.slices)
