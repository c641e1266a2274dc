"""The interfaces of a runtime: it loads a file as a model, which has one capability or more.

Datatypes carry the names of the Open Inference Protocol, version 2
(https://github.com/open-inference/open-inference-protocol).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from runtimes.errors import InputError
from runtimes.formats import Format

Array = NDArray[Any]


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

    @property
    def numpy(self) -> np.dtype[Any]:
        """The numpy dtype, little-endian; that of ml_dtypes for BF16, `object` (of `bytes`) for BYTES."""
        return _NUMPY[self]

    @classmethod
    def of(cls, dtype: np.dtype[Any]) -> Datatype:
        """Return the datatype of a numpy dtype; strings of any kind are BYTES. Raises InputError."""
        if dtype.kind in "OSU":
            return cls.BYTES
        for datatype, numpy_dtype in _NUMPY.items():
            if numpy_dtype == dtype:
                return datatype
        raise InputError(f"dtype {dtype} has no datatype in the Open Inference Protocol; cast it first")


_NUMPY: Mapping[Datatype, np.dtype[Any]] = {
    Datatype.BOOL: np.dtype(np.bool_),
    Datatype.UINT8: np.dtype("<u1"),
    Datatype.UINT16: np.dtype("<u2"),
    Datatype.UINT32: np.dtype("<u4"),
    Datatype.UINT64: np.dtype("<u8"),
    Datatype.INT8: np.dtype("<i1"),
    Datatype.INT16: np.dtype("<i2"),
    Datatype.INT32: np.dtype("<i4"),
    Datatype.INT64: np.dtype("<i8"),
    Datatype.FP16: np.dtype("<f2"),
    Datatype.BF16: np.dtype(ml_dtypes.bfloat16),
    Datatype.FP32: np.dtype("<f4"),
    Datatype.FP64: np.dtype("<f8"),
    Datatype.BYTES: np.dtype(object),
}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of a signature.

    `datatype` is the value of a `Datatype`. In `shape`, -1 stands for any length; None stands for any rank.
    """

    name: str
    datatype: str
    """The value of a `Datatype`."""
    shape: tuple[int, ...] | None = None
    """-1 stands for any length; None for any rank."""


@dataclass(frozen=True, slots=True)
class Signature:
    """The inputs and outputs of a model, in the order of its file.

    `outputs` is empty where their names are known only after a run.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    """Empty where their names are known only after a run."""


@dataclass(frozen=True, slots=True)
class Resources:
    """The CPU cores and GPUs that one loaded model may use; both may be fractions."""

    cpus: float = 1.0
    gpus: float = 0.0

    @property
    def threads(self) -> int:
        """The number of threads that compute: the cores rounded up, at least 1."""
        return max(1, math.ceil(self.cpus))


@runtime_checkable
class LoadedModel(Protocol):
    """A model in the memory of this process, ready to answer.

    A model has one capability or more besides, each of them a protocol here; so far there is `TensorModel`.
    """

    @property
    def platform(self) -> str:
        """The protocol's platform name, `<project>_<format>`: `onnxruntime_onnx`."""
        ...

    @property
    def device(self) -> str:
        """The device that computes: `cpu` or `cuda:0`."""
        ...

    def close(self) -> None:
        """Free what the engine holds. Closing twice does no harm; a call after it is ExecutionError."""
        ...


@runtime_checkable
class TensorModel(LoadedModel, Protocol):
    """The capability to make tensors of tensors.

    `infer` may be called from any thread, by one thread at a time; a runtime whose engine allows more
    says so in its own docstring.
    """

    @property
    def signature(self) -> Signature:
        """The inputs and outputs of `infer`."""
        ...

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        """Return the named `outputs`, or all of them when none is named.

        Raises InputError for a tensor that is missing, unknown, or of a wrong datatype, rank or
        dimension, and for an unknown output; ExecutionError when the model itself fails.
        """
        ...


@runtime_checkable
class Runtime(Protocol):
    """An adapter for one engine: stateless, made without arguments, cheap to import."""

    name: ClassVar[str]
    formats: ClassVar[tuple[Format, ...]]

    def load(self, path: Path, resources: Resources) -> LoadedModel:
        """Load the model file that `runtimes.select.choose` chose. Raises LoadError or UnsafeFormat."""
        ...

    def signature(self, path: Path) -> Signature | None:
        """Return the signature in the file, None where it has none until it is loaded. Raises LoadError."""
        ...


@runtime_checkable
class CheckingRuntime(Runtime, Protocol):
    """A runtime that can check a file without its engine; with others, its signature is read instead."""

    def check(self, path: Path) -> object:
        """Raise what `load` would raise, as far as that is known without the engine. Reads the file only."""
        ...


class InputCheck:
    """The check of inputs against a signature, prepared once and called for each request."""

    __slots__ = ("_expected", "_specs")

    def __init__(self, signature: Signature) -> None:
        self._expected = tuple(
            (
                spec.name,
                Datatype(spec.datatype).numpy,
                None if spec.shape is None else len(spec.shape),
                tuple((axis, size) for axis, size in enumerate(spec.shape or ()) if size >= 0),
            )
            for spec in signature.inputs
        )
        self._specs = {spec.name: spec for spec in signature.inputs}

    def __call__(self, inputs: Mapping[str, Array]) -> None:
        """Raise InputError, naming the tensor, unless `inputs` fit the signature."""
        for name, dtype, rank, sizes in self._expected:
            array = inputs.get(name)
            if array is None:
                raise InputError(f"input {name!r} is missing; the model takes {self._names()}")
            actual = array.dtype
            # numpy has one object per native dtype, so identity decides nearly every call
            if actual is not dtype and actual != dtype and not (dtype.kind == "O" and actual.kind in "SU"):
                raise self._mismatch(name, array)
            if rank is not None:
                shape = array.shape
                if len(shape) != rank:
                    raise self._mismatch(name, array)
                for axis, size in sizes:
                    if shape[axis] != size:
                        raise self._mismatch(name, array)
        if len(inputs) != len(self._expected):
            unknown = ", ".join(repr(name) for name in inputs if name not in self._specs)
            raise InputError(f"unknown input {unknown}; the model takes {self._names()}")

    def _names(self) -> str:
        return ", ".join(repr(name) for name in self._specs) or "no inputs"

    def _mismatch(self, name: str, array: Array) -> InputError:
        spec = self._specs[name]
        shape = "any shape" if spec.shape is None else f"shape {list(spec.shape)} (-1: any length)"
        actual = f"{_describe(array.dtype)} of shape {list(array.shape)}"
        return InputError(f"input {name!r} must be {spec.datatype} of {shape}, not {actual}")


def check_inputs(signature: Signature, inputs: Mapping[str, Array]) -> None:
    """Raise InputError unless `inputs` fit `signature`. On a hot path, keep an `InputCheck` instead."""
    InputCheck(signature)(inputs)


def unknown_output(name: str, outputs: Sequence[str]) -> InputError:
    """Return the error for an output that the model does not have."""
    return InputError(f"unknown output {name!r}; the model gives {', '.join(map(repr, outputs))}")


def _describe(dtype: np.dtype[Any]) -> str:
    try:
        return Datatype.of(dtype).value
    except InputError:
        return f"numpy {dtype.str}"
