"""The kit that is meant of an index with several: the one with the labels, or the largest that fits.

Labels match as `kit unpack --label` matches them: every one that is asked for is there, with the same text.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Self

from pydantic import ByteSize, TypeAdapter, ValidationError
from rich.filesize import decimal

from gateway.errors import KitError, NotAKit
from gateway.gpus.devices import Gpus
from gateway.gpus.nvml import read_gpus
from gateway.metrics.machine import usable_memory
from gateway.oci.content import Descriptor
from gateway.oci.reference import Digest
from gateway.oci.variant import Variant

_MEMORY_LABEL = "vram"
# What an engine needs beside the weights: its key-value cache, buffers, and itself.
_WEIGHTS_PERCENT = 120
_ENGINE_BYTES = 256 * 1024 * 1024
_ADVICE = "name a kit of the index by its labels with `variant`"
_MAX_LABEL = 80  # characters that are shown
_byte_size = TypeAdapter(ByteSize)


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One entry of an index, with the tag, platform ("os/architecture/variant") and labels that it states.

    Labels are a ModelKit index's `modelMetadata`: strings as they are, other values as JSON.
    """

    descriptor: Descriptor
    tag: str | None
    platform: str | None
    labels: Mapping[str, str]

    @property
    def described_labels(self) -> str:
        """The labels in one line, as kit shows them."""
        return ", ".join(f"{_shown(name)}={_shown(value)}" for name, value in sorted(self.labels.items()))

    def __str__(self) -> str:
        details = (f"tag {_shown(self.tag)}" if self.tag else "", self.platform and _shown(self.platform))
        listed = ", ".join(filter(None, (*details, self.described_labels)))
        return f"{self.descriptor.digest} ({listed})" if listed else f"{self.descriptor.digest}"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A kit of an index; `size` is the bytes of its model, as they are stored."""

    entry: IndexEntry
    size: int

    @property
    def memory(self) -> int:
        """The bytes of memory that it takes: what its label says, or its size and what an engine adds."""
        stated = _memory_label(self.entry.labels.get(_MEMORY_LABEL))
        return self.size * _WEIGHTS_PERCENT // 100 + _ENGINE_BYTES if stated is None else stated

    def __str__(self) -> str:
        return f"{self.entry}, which needs {decimal(self.memory)}"


@dataclass(frozen=True, slots=True)
class Room:
    """What the machine decides by: `free` bytes of memory, and the kit that was chosen before, if one was.

    `place` says whose memory it is.
    """

    free: int
    place: str = "on this machine"
    chosen: Digest | None = None

    @classmethod
    def here(
        cls, gpus: float = 0.0, chosen: Digest | None = None, read: Callable[[], Gpus] = read_gpus
    ) -> Self:
        """Return the room that there is on this machine now, for a worker that has so many GPUs.

        `read` tells of the GPUs.

        Raises KitError where it cannot be read.
        """
        if gpus <= 0:
            try:
                return cls(usable_memory().free, chosen=chosen)
            except (OSError, KeyError) as error:
                raise KitError(f"how much memory is free cannot be read ({error}); {_ADVICE}") from error
        devices = read()
        free = sorted((gpu.free for gpu in devices.devices if gpu.free is not None), reverse=True)
        if not free:
            trouble = devices.trouble or "NVML tells of no GPU"
            raise KitError(f"how much memory is free on GPUs is not known ({trouble}); {_ADVICE}")
        if gpus < 1:
            return cls(int(free[0] * gpus), f"on {gpus:g} of a GPU", chosen)
        return cls(sum(free[: int(gpus)]), "on one GPU" if gpus == 1 else f"on {gpus:g} GPUs", chosen)


@dataclass(frozen=True, slots=True)
class ChosenKit:
    """The kit of an index that is meant, and why where a machine chose it; "" where people did."""

    descriptor: Descriptor
    labels: str = ""
    reason: str = ""


def with_labels(candidates: Sequence[Candidate], variant: Variant, origin: str) -> ChosenKit:
    """Return the one kit that has the labels.

    Raises NotAKit, which lists the kits, where none has them, or several have.
    """
    wanted = variant.labels
    matches = [
        kit for kit in candidates if all(kit.entry.labels.get(name) == value for name, value in wanted)
    ]
    if len(matches) == 1:
        return ChosenKit(matches[0].entry.descriptor, matches[0].entry.described_labels)
    labels = ", ".join(f"{_shown(name)}={_shown(value)}" for name, value in wanted)
    if matches:
        listed = "; ".join(str(kit.entry) for kit in matches)
        raise NotAKit(
            f"{origin} has {len(matches)} kits with {labels}: {listed}; add a label that only one of them has"
        )
    listed = "; ".join(str(kit.entry) for kit in candidates)
    raise NotAKit(f"{origin} has no kit with {labels}; it has {listed}; name labels of one of them")


def that_fits(candidates: Sequence[Candidate], room: Room, origin: str) -> ChosenKit:
    """Return the largest kit whose memory is free, or the one that was chosen before while it is there.

    Raises KitError, with what each needs, where none fits.
    """
    for kit in candidates:
        if kit.entry.descriptor.digest == room.chosen:
            return _chosen(kit, "it was chosen before, and is kept")
    free = f"{decimal(room.free)} of memory are free {room.place}"
    fitting = [kit for kit in candidates if kit.memory <= room.free]
    if not fitting:
        listed = "; ".join(map(str, candidates))
        raise KitError(
            f"{origin} has no kit that fits: {free}, and it has {listed}; free memory and apply the config "
            "again, or name one by its labels with `variant`"
        )
    best = max(fitting, key=lambda kit: (kit.size, kit.memory))
    rank = "the largest" if len(fitting) == len(candidates) else "the largest that fits"
    return _chosen(best, f"it is {rank} of {len(candidates)}, needs {decimal(best.memory)}, and {free}")


def _chosen(kit: Candidate, reason: str) -> ChosenKit:
    entry = kit.entry
    labels = entry.described_labels
    name = labels or entry.tag or entry.descriptor.digest.short
    return ChosenKit(entry.descriptor, labels, f"variant {name}: {reason}")


def _memory_label(value: str | None) -> int | None:
    """Read a label such as "6GB"; None where it is no size. A bare number is of gigabytes."""
    if value is None:
        return None
    try:
        number = Decimal(value)
    except InvalidOperation:
        try:
            return int(_byte_size.validate_python(value.strip()))
        except ValidationError:
            return None
    return int(number * 10**9) if number.is_finite() and 0 < number < 10**6 else None


def _shown(text: str) -> str:
    text = text if len(text) <= _MAX_LABEL else f"{text[:_MAX_LABEL]}…"
    return text if text.isprintable() else repr(text)
