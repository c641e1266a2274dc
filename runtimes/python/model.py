"""The models that a kit's Python makes: its own, and one that Kitserve runs, with processing around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from runtimes.base import ANY, Array, Datatype, LabelledModel, Signature, TensorModel, TensorSpec
from runtimes.errors import ExecutionError, InputError, LoadError
from runtimes.input_check import InputCheck, unknown_output
from runtimes.python.annotations import OUTPUT
from runtimes.python.child import POSTPROCESS, PREDICT, PREPROCESS
from runtimes.python.process import KitProcess
from runtimes.text_model import TextModel

_NO_LABELS: Mapping[str, tuple[str, ...]] = {}


class PythonModel:
    """A class of the kit with `predict`."""

    platform = "kitserve_python"

    def __init__(self, process: KitProcess, device: str) -> None:
        method = process.methods[PREDICT]
        required, optional = _inputs(method)
        self.signature = Signature(required, _specs(method["outputs"]), optional)
        self.device = device
        self._process = process
        self._check = InputCheck(self.signature)
        self._outputs = tuple(spec.name for spec in self.signature.outputs)

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        """Run the model; see `TensorModel.infer`."""
        self._check(inputs)
        _check_wanted(outputs, self._outputs)
        return self._process.call(PREDICT, inputs, outputs)

    def is_alive(self) -> bool:
        """Whether the kit's Python takes calls."""
        return self._process.is_alive()

    def failure(self) -> str:
        """Return why it takes no more calls; "" while it does."""
        return self._process.failure()

    def close(self) -> None:
        """End the kit's Python."""
        self._process.close()


class ProcessedModel:
    """A model that its own runtime runs, between the `preprocess` and the `postprocess` of a kit's class."""

    def __init__(self, process: KitProcess, model: TensorModel) -> None:
        """Put them together. Raises LoadError where they do not fit."""
        if isinstance(model, TextModel):
            raise LoadError("preprocess and postprocess are for models of tensors, and this one is of texts")
        self.platform = model.platform
        self.device = model.device
        self._process = process
        self._model = model
        self._before = process.methods.get(PREPROCESS)
        self._after = process.methods.get(POSTPROCESS)
        inner = model.signature
        self._needed = self._outputs_for_postprocess()
        if self._before is not None:
            self._check_names(self._before["outputs"], inner)
            required, optional = _inputs(self._before)
        else:
            required, optional = inner.inputs, inner.optional
        if self._after is not None:
            self.signature = Signature(required, _specs(self._after["outputs"]), optional)
        else:
            self.signature = Signature(required, inner.outputs, optional, inner.on_request)
        self._check = InputCheck(self.signature)
        self._outputs = tuple(spec.name for spec in self.signature.all_outputs)
        self._specs = {spec.name: spec for spec in inner.all_inputs}
        self._is_closed = False

    @property
    def labels(self) -> Mapping[str, tuple[str, ...]]:
        """The names of the model's classes, where its outputs are given as they are."""
        if self._after is None and isinstance(self._model, LabelledModel):
            return self._model.labels
        return _NO_LABELS

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        """Run the model; see `TensorModel.infer`."""
        if self._is_closed:
            raise ExecutionError("the model is closed")
        self._check(inputs)
        _check_wanted(outputs, self._outputs)
        tensors = inputs
        if self._before is not None:
            tensors = self._fitted(self._process.call(PREPROCESS, inputs))
        if self._after is None:
            return self._run(tensors, outputs)
        return self._process.call(POSTPROCESS, self._run(tensors, self._needed), outputs)

    def is_alive(self) -> bool:
        """Whether the kit's Python takes calls."""
        return self._process.is_alive()

    def failure(self) -> str:
        """Return why it takes no more calls; "" while it does."""
        return self._process.failure()

    def close(self) -> None:
        """End the kit's Python, and free the model."""
        self._is_closed = True
        self._process.close()
        self._model.close()

    def _run(self, tensors: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        try:
            return self._model.infer(tensors, outputs)
        except InputError as error:
            if self._before is None:
                raise
            raise ExecutionError(f"the model does not take what preprocess returned: {error}") from error

    def _fitted(self, tensors: dict[str, Array]) -> dict[str, Array]:
        """Return what preprocess gave as the model takes it: numbers cast to others of their kind.

        One that has no name is the input of a model with one.
        """
        if list(tensors) == [OUTPUT] and len(self._specs) == 1:
            tensors = dict(zip(self._specs, tensors.values(), strict=True))
        for name, array in tensors.items():
            spec = self._specs.get(name)
            if spec is None or spec.datatype in (ANY, Datatype.BYTES):
                continue
            dtype = Datatype(spec.datatype).numpy
            if array.dtype != dtype and np.can_cast(array.dtype, dtype, "same_kind"):
                tensors[name] = array.astype(dtype)
        return tensors

    def _outputs_for_postprocess(self) -> tuple[str, ...]:
        """Return the model's outputs that postprocess takes; () for all. Raises LoadError."""
        if self._after is None or self._after["takes_dict"]:
            return ()
        names = {spec.name for spec in self._model.signature.all_outputs}
        wanted = tuple(tensor["name"] for tensor in self._after["inputs"])
        unknown = [name for name in wanted if names and name not in names]
        if unknown:
            raise LoadError(
                f"postprocess takes {', '.join(map(repr, unknown))}, and the model gives "
                f"{', '.join(map(repr, sorted(names)))}: call its parameters as the model's outputs are "
                "called"
            )
        return wanted

    def _check_names(self, outputs: Sequence[Mapping[str, Any]], inner: Signature) -> None:
        """Raise LoadError where preprocess is known to return what the model does not take."""
        names = [tensor["name"] for tensor in outputs]
        expected = {spec.name for spec in inner.all_inputs}
        if names == [OUTPUT] and len(expected) == 1:
            return
        required = {spec.name for spec in inner.inputs}
        if names and not (set(names) <= expected and required <= set(names)):
            raise LoadError(
                f"preprocess returns {', '.join(map(repr, names))}, and the model takes "
                f"{', '.join(map(repr, sorted(expected)))}: return a dict with the names of the model's "
                "inputs"
            )


def _inputs(method: Mapping[str, Any]) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Return the inputs of a method that every call must have, and those that may be left out."""
    required = [tensor for tensor in method["inputs"] if not tensor["is_optional"]]
    optional = [tensor for tensor in method["inputs"] if tensor["is_optional"]]
    return _specs(required), _specs(optional)


def _specs(tensors: Sequence[Mapping[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            tensor["name"],
            tensor["datatype"],
            None if tensor["shape"] is None else tuple(tensor["shape"]),
            may_be_missing=tensor["may_be_missing"],
        )
        for tensor in tensors
    )


def _check_wanted(wanted: Sequence[str], outputs: Sequence[str]) -> None:
    """Raise InputError for an output that there is not, where the outputs are known."""
    for name in wanted:
        if outputs and name not in outputs:
            raise unknown_output(name, outputs)
