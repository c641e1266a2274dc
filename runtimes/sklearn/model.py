"""A loaded estimator, which answers calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from runtimes.base import Array, Datatype, InputCheck, Signature, unknown_output
from runtimes.errors import ExecutionError, InputError
from runtimes.sklearn.signature import PROBABILITIES

# How scikit-learn's errors about wrong rows begin; its other errors are the estimator's own.
_INPUT_ERRORS = ("Input ", "Found array ")


class SklearnModel:
    """An estimator. Its input is `input`; its output is `prediction` for a regressor, else `label`.

    A classifier with `predict_proba` has the output `probabilities` as well, in the order of its classes.
    """

    platform = "sklearn_pickle"
    device = "cpu"

    def __init__(self, estimator: Any, signature: Signature) -> None:
        self.signature = signature
        self._check = InputCheck(signature)
        self._outputs = {
            spec.name: (_method(estimator, spec.name), Datatype(spec.datatype)) for spec in signature.outputs
        }
        self._closed = False

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        """Run the model; see `TensorModel.infer`."""
        if self._closed:
            raise ExecutionError("the model is closed")
        self._check(inputs)
        for name in outputs:
            if name not in self._outputs:
                raise unknown_output(name, tuple(self._outputs))
        rows = inputs["input"]
        try:
            return {name: self._predict(name, rows) for name in outputs or self._outputs}
        except Exception as error:
            if isinstance(error, ValueError) and str(error).startswith(_INPUT_ERRORS):
                raise InputError(f"input 'input': {error}") from error
            raise ExecutionError(f"the model failed: {error}") from error

    def close(self) -> None:
        """Free the estimator."""
        self._closed = True
        self._outputs = {}

    def _predict(self, name: str, rows: Array) -> Array:
        method, datatype = self._outputs[name]
        return _typed(method(rows), datatype)


def _method(estimator: Any, output: str) -> Callable[[Array], Any]:
    method: Callable[[Array], Any] = estimator.predict_proba if output == PROBABILITIES else estimator.predict
    return method


def _typed(result: Any, datatype: Datatype) -> Array:
    array: Array = np.asarray(result)
    if datatype is not Datatype.BYTES:
        return array.astype(datatype.numpy, copy=False)
    texts = [item if isinstance(item, bytes) else str(item).encode() for item in array.reshape(-1).tolist()]
    return np.array(texts, dtype=object).reshape(array.shape)
