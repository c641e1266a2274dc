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


CPU = "cpu"
PREFER_GPU = "prefer-gpu"
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


@runtime_checkable
class LoadedModel(Protocol):
    """A model in the memory of this process, ready to answer.

    A model has one capability or more besides, each of them a protocol: `TensorModel` here, `TextModel` of
    `runtimes.text_model`, and `OpenAIModel` of `runtimes.engines.base`. A `TensorModel` may tell more of
    itself, as `BatchedModel`, `LabelledModel` or `ExemplaryModel`, or can be interrupted, as an
    `InterruptibleModel`.
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
class ProvidedModel(LoadedModel, Protocol):
    """A model whose engine has several ways to compute, and tells which one does."""

    @property
    def provider(self) -> str:
        """The engine's own name for it: `CUDAExecutionProvider`."""
        ...


def provider_of(model: LoadedModel) -> str:
    """Return what of its engine computes a model; the engine's own name where there is but one way."""
    return model.provider if isinstance(model, ProvidedModel) else model.platform.partition("_")[0]


@runtime_checkable
class TensorModel(LoadedModel, Protocol):
    """The capability to make tensors of tensors.

    `infer` may be called from any thread, by one thread at a time; a runtime whose engine allows more
    says so in its own docstring. Before a model is served it answers a first call, most often of made-up
    values. If that takes longer than a minute, it goes on beside the calls that come.
    """

    @property
    def signature(self) -> Signature:
        """The inputs and outputs of `infer`."""
        ...

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        """Return the named `outputs`, or when none is named, all that are not `on_request`.

        Raises InputError for a tensor that is missing, unknown, or of a wrong datatype, rank or
        dimension, and for an unknown output; ExecutionError when the model itself fails, and of that
        Unsupported when every call would fail so.
        """
        ...


@runtime_checkable
class BatchedModel(TensorModel, Protocol):
    """A model whose calls are run together unless the config says otherwise, as that pays for all of them."""

    @property
    def pays_to_batch(self) -> bool:
        """Whether it is so for this model."""
        ...


@runtime_checkable
class LabelledModel(TensorModel, Protocol):
    """A model whose file has names for the classes that its outputs are about."""

    @property
    def labels(self) -> Mapping[str, tuple[str, ...]]:
        """The names of an output's columns, by output; outputs without names are left out."""
        ...


@runtime_checkable
class ExemplaryModel(TensorModel, Protocol):
    """A model that knows inputs which it answers, as it may refuse what is made up by its signature."""

    @property
    def example(self) -> Mapping[str, Array]:
        """Inputs of one row that were answered; empty where none are known."""
        ...


@runtime_checkable
class ConcurrentModel(TensorModel, Protocol):
    """A model whose engine may run calls at once, each called by a thread of its own."""

    @property
    def runs_at_once(self) -> int:
        """How many, if that pays; 1 where it never does."""
        ...


@runtime_checkable
class InterruptibleModel(TensorModel, Protocol):
    """A model whose engine can end a call that it computes."""

    def interrupt(self) -> None:
        """Have the calls that `infer` computes now raise `Interrupted` soon; from any thread.

        Whether it does so is not certain: an operator may look for it late, or never.
        """
        ...


@runtime_checkable
class ModelInChild(LoadedModel, Protocol):
    """A model that runs in a process of its own, which may end before its worker does."""

    def is_alive(self) -> bool:
        """Whether that process still runs."""
        ...

    def failure(self) -> str:
        """Return why it ended, with the end of its log; "" while it runs."""
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


@runtime_checkable
class DelegatingRuntime(Runtime, Protocol):
    """A runtime that leaves some models to another one, unless the config names it."""

    def alone(self) -> Runtime:
        """Return the runtime that leaves none to another, for a config that names this one."""
        ...


@runtime_checkable
class CodeRuntime(Runtime, Protocol):
    """A runtime that loads some files without running their code, and others only by running it."""

    def with_code(self) -> Runtime:
        """Return the runtime that runs what is in a file, for kits that may run code."""
        ...
