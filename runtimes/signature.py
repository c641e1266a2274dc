"""What a model takes, gives and may use, in words: without an array, so that configs can say it too.

Datatypes carry the names of the Open Inference Protocol, version 2
(https://github.com/open-inference/open-inference-protocol).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtimes.errors import InputError

if TYPE_CHECKING:
    import numpy as np


class Datatype(StrEnum):
    """The datatypes of the protocol."""

    BOOL = "BOOL"
    UINT8 = "UINT8"
    UINT16 = "UINT16"
    UINT32 = "UINT32"
    UINT64 = "UINT64"
    INT8 = "INT8"
    INT16 = "INT16"
    INT32 = "INT32"
    INT64 = "INT64"
    FP16 = "FP16"
    BF16 = "BF16"
    FP32 = "FP32"
    FP64 = "FP64"
    BYTES = "BYTES"

    @cached_property
    def numpy(self) -> np.dtype[Any]:
        """The numpy dtype, little-endian; that of ml_dtypes for BF16, `object` (of `bytes`) for BYTES."""
        # Imported here, as who reads configs has no arrays.
        from runtimes.numpy_dtypes import DTYPES

        return DTYPES[self.value]

    @classmethod
    def of(cls, dtype: np.dtype[Any]) -> Datatype:
        """Return the datatype of a numpy dtype; strings of any kind are BYTES. Raises InputError."""
        if dtype.kind in "OSU":
            return cls.BYTES
        from runtimes.numpy_dtypes import NAMES

        if (name := NAMES.get(dtype)) is not None:
            return cls(name)
        raise InputError(f"dtype {dtype} has no datatype in the Open Inference Protocol; cast it first")


MAX_TENSORS = 4096
"""How many inputs a model may have, and how many outputs: all are kept, and written into documents."""
ANY = "ANY"
"""Stands for a datatype of numbers where a model's file does not say which: the caller's is taken."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of a signature."""

    name: str
    datatype: str
    """The value of a `Datatype`, or `ANY`."""
    shape: tuple[int, ...] | None = None
    """-1 stands for any length; None for any rank."""
    likely: str = ""
    """The value of the `Datatype` that is most likely meant where `datatype` is `ANY`; "" where none is."""
    likely_shape: tuple[int, ...] | None = None
    """The shape that is most likely meant where `shape` is None, as far as that can be told."""
    may_be_missing: bool = False
    """Whether an element of a BYTES tensor may be None, a missing value; one of floats may always be NaN."""

    @property
    def usual(self) -> Datatype:
        """The datatype to make values of: the tensor's own, else the most likely one, else FP32."""
        if self.datatype == ANY:
            return Datatype(self.likely) if self.likely else Datatype.FP32
        return Datatype(self.datatype)


@dataclass(frozen=True, slots=True)
class Signature:
    """The inputs and outputs of a model, in the order of its file."""

    inputs: tuple[TensorSpec, ...]
    """Those that every call must have."""
    outputs: tuple[TensorSpec, ...]
    """Empty where their names are known only after a run."""
    optional: tuple[TensorSpec, ...] = ()
    """The inputs that callers may leave out."""
    on_request: tuple[TensorSpec, ...] = ()
    """Further outputs, which are computed only for calls that name them."""

    @property
    def all_inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs of both kinds, those that every call must have first."""
        return self.inputs + self.optional

    @property
    def all_outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs of both kinds, those of a call that names none first."""
        return self.outputs + self.on_request


def has_shape(shape: Sequence[int], expected: Sequence[int]) -> bool:
    """Tell whether a shape is as expected, where -1 stands for any length."""
    return len(shape) == len(expected) and all(
        length in (-1, size) for size, length in zip(shape, expected, strict=True)
    )


CPU = "cpu"
PREFER_GPU = "prefer-gpu"
CPU_ADVICE = f"let the CPU compute with `device: {PREFER_GPU}`"
"""What to write where a GPU was asked for and cannot be used, however it was asked for."""
DEVICE_WORDS = (CPU, "gpu", PREFER_GPU)
"""What `Resources.device` may say besides the names of GPUs."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What one loaded model may use: CPU cores and GPUs, both may be fractions, and bytes of memory."""

    cpus: float = 1.0
    gpus: float = 0.0
    memory: int | None = None
    """Of each of its processes; None: no bound."""
    gpu_memory: int | None = None
    """Bytes of its GPU's memory; None: no bound."""
    accelerator: str | None = None
    """The kind of GPU, by Ray's label; None: any."""
    device: str | None = None
    """What computes: `cpu`, `gpu`, `prefer-gpu`, or GPUs by name; None: a GPU where one is asked for."""
    engine_cache: Path | None = None
    """A directory for what an engine compiles for its GPU, which later loads of the same kit read."""

    @property
    def wants_gpu(self) -> bool:
        """Whether a GPU is to compute, if there is one."""
        return self.device != CPU and (
            self.gpus > 0 or self.gpu_memory is not None or self.device is not None
        )

    @property
    def may_use_cpu(self) -> bool:
        """Whether the CPU may compute."""
        return self.device == PREFER_GPU or not self.wants_gpu

    @property
    def pinned(self) -> tuple[str, ...]:
        """The GPUs that it must have, by index or UUID; () for any."""
        is_named = self.device is not None and self.device not in DEVICE_WORDS
        return tuple(self.device.split(",")) if is_named and self.device else ()

    @property
    def reserved_gpus(self) -> float:
        """How many GPUs Ray reserves; 0 also for a worker that is placed by memory."""
        return 0.0 if self.pinned or self.may_use_cpu else self.gpus

    @property
    def threads(self) -> int:
        """The number of threads that compute: the cores rounded up, at least 1."""
        return max(1, math.ceil(self.cpus))
