"""A model whose inputs are the columns that a signature of MLflow names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from runtimes.base import ANY, Array, Datatype, InterruptibleModel, TensorModel, TensorSpec
from runtimes.errors import InputError
from runtimes.mlflow.fit import Fit
from runtimes.stated import StatedModel
from runtimes.tables import MATRIX, Table, cast


def with_fit(model: TensorModel, fit: Fit) -> TensorModel:
    """Return the model with the signature that fits it, or as it is where nothing is added."""
    if fit.signature == model.signature:
        return model
    return ColumnsModel(model, fit) if fit.columns else StatedModel(model, fit.signature)


class ColumnsModel:
    """Casts the columns of a call, fills in those that are left out, and runs the model on its own inputs.

    The matrix that the model takes by itself is taken as well.
    """

    def __init__(self, model: TensorModel, fit: Fit) -> None:
        self.signature = fit.signature
        self.platform = model.platform
        self.device = model.device
        self.labels: Mapping[str, tuple[str, ...]] = getattr(model, "labels", {})
        self.pays_to_batch: bool = getattr(model, "pays_to_batch", False)
        self.example: Mapping[str, Array] = getattr(model, "example", {})
        self._model = model
        self._own = {spec.name: spec for spec in model.signature.all_inputs}
        self._matrix = self._own[fit.matrix] if fit.matrix else None
        specs = {spec.name: _typed(spec) for spec in fit.signature.all_inputs}
        self._table = Table.of_columns([specs[name] for name in fit.columns])
        self._wholes = frozenset({MATRIX, fit.matrix} - specs.keys() - {""})
        self._optional = tuple(specs[spec.name] for spec in fit.signature.optional)

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        """Run the model; see `TensorModel.infer`."""
        matrix = self._matrix
        if len(inputs) == 1 and (name := next(iter(inputs))) in self._wholes:
            own = inputs if matrix is None else {matrix.name: self._as_matrix(matrix, name, inputs[name])}
            return self._model.infer(own, outputs)
        inputs = self._filled(inputs)
        if matrix is not None:
            rows = self._table.matrix(inputs, matrix.usual.numpy)
            return self._model.infer({matrix.name: rows}, outputs)
        columns = self._table.columns(inputs)
        own = {name: _as_column(self._own[name], values) for name, values in columns.items()}
        return self._model.infer(own, outputs)

    def interrupt(self) -> None:
        """End the calls that run now, where the model can; see `InterruptibleModel.interrupt`."""
        if isinstance(self._model, InterruptibleModel):
            self._model.interrupt()

    def close(self) -> None:
        """Free the model."""
        self._model.close()

    def _as_matrix(self, matrix: TensorSpec, name: str, rows: Array) -> Array:
        return rows if matrix.datatype == ANY else cast(name, rows, matrix.usual.numpy)

    def _filled(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Return the inputs with missing values in each column that is left out. Raises InputError."""
        absent = [spec for spec in self._optional if spec.name not in inputs]
        if not absent:
            return inputs
        counts = [len(values) for values in inputs.values() if values.ndim]
        if not counts:
            names = ", ".join(repr(spec.name) for spec in self.signature.all_inputs)
            raise InputError(f"a call needs one input at least; the model takes {names}")
        return {**inputs, **{spec.name: _missing(spec, counts[0]) for spec in absent}}


def _missing(spec: TensorSpec, count: int) -> Array:
    value = None if spec.usual is Datatype.BYTES else np.nan
    return np.full(count, value, spec.usual.numpy)


def _as_column(spec: TensorSpec, values: Array) -> Array:
    """Return a column as the model's own input."""
    if spec.datatype != ANY:
        values = cast(spec.name, values, spec.usual.numpy)
    return values.reshape(-1, 1) if len(spec.shape or ()) == 2 else values


def _typed(spec: TensorSpec) -> TensorSpec:
    return replace(spec, datatype=spec.usual.value)
