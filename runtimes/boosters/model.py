"""What the loaded models of all three libraries have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runtimes.base import Array, Signature
from runtimes.errors import ExecutionError, ModelError
from runtimes.input_check import unknown_output

PREDICT, PROBABILITIES, RAW = "predict", "predict_proba", "raw_score"


class BoosterModel:
    """Answers calls by `_compute`, which a library's own model has."""

    platform: str
    device = "cpu"

    def __init__(self, signature: Signature) -> None:
        self.signature = signature
        self._all = {spec.name: spec for spec in signature.all_outputs}
        self._usual = tuple(spec.name for spec in signature.outputs)
        self._is_closed = False

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        """Run the model; see `TensorModel.infer`."""
        if self._is_closed:
            raise ExecutionError("the model is closed")
        names = outputs or self._usual
        for name in names:
            if name not in self._all:
                raise unknown_output(name, tuple(self._all))
        try:
            results = self._compute(inputs, names)
        except ModelError:
            raise
        except Exception as error:
            raise ExecutionError(
                f"the model failed: {str(error).partition('Stack trace:')[0].strip()}"
            ) from error
        return {name: results[name] for name in names}

    def close(self) -> None:
        """Free what the engine holds."""
        self._is_closed = True

    def _compute(self, inputs: Mapping[str, Array], names: Sequence[str]) -> dict[str, Array]:
        """Return the outputs that are named, and perhaps more."""
        raise NotImplementedError
