"""The interfaces of a runtime: it loads a file as a model, which has one capability or more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from numpy.typing import NDArray

from runtimes.formats import Format
from runtimes.signature import ANY, MAX_TENSORS, Datatype, Resources, Signature, TensorSpec

__all__ = [
    "ANY",
    "MAX_TENSORS",
    "Array",
    "BatchedModel",
    "CheckingRuntime",
    "CodeRuntime",
    "Datatype",
    "DelegatingRuntime",
    "ExemplaryModel",
    "InterruptibleModel",
    "LabelledModel",
    "LoadedModel",
    "ModelInChild",
    "Resources",
    "Runtime",
    "Signature",
    "TensorModel",
    "TensorSpec",
]

Array = NDArray[Any]


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
class EstimatingRuntime(Runtime, Protocol):
    """A runtime that can tell what its engine takes for a call beside weights, before a file is loaded."""

    def activations(self, path: Path, rows: int, length: int) -> int | None:
        """Return the bytes for a call of so many rows; None where the file does not tell.

        Axes that the file leaves open are `length` long, but for the first one.
        """
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
