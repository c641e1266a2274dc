"""A runtime of linear models in JSON, as short as one can be, and runtimes that break their promises."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from runtimes.base import Array, Datatype, Resources, Signature, TensorSpec
from runtimes.errors import ExecutionError, InputError, LoadError
from runtimes.formats import Format
from runtimes.input_check import unknown_output
from runtimes.tables import Table, column

SAMPLE = (
    b'{"weights": {"age": 0.5, "income": -2.0, "town": {"Bergen": 1.0, "Oslo": 3.0}},'
    b' "classes": ["no", "yes"]}'
)


class ToyModel:
    """Scores rows of named columns: a number counts its weight, and a word the weight that it has."""

    platform = "toy_json"
    device = "cpu"

    def __init__(self, weights: Mapping[str, Any], classes: tuple[str, str]) -> None:
        self._weights = weights
        kinds = {
            name: Datatype.BYTES if isinstance(w, dict) else Datatype.FP64 for name, w in weights.items()
        }
        self._table = Table.of_columns([column(name, kind) for name, kind in kinds.items()])
        outputs = (TensorSpec("predict", "BYTES", (-1,)), TensorSpec("predict_proba", "FP64", (-1, 2)))
        self.signature = Signature(
            self._table.inputs, outputs, on_request=(TensorSpec("decision_function", "FP64", (-1,)),)
        )
        self.labels = MappingProxyType({"predict_proba": classes})
        self._classes = np.array([name.encode() for name in classes], object)
        self._is_closed = False

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        if self._is_closed:
            raise ExecutionError("the model is closed")
        names = [spec.name for spec in self.signature.all_outputs]
        for name in outputs:
            if name not in names:
                raise unknown_output(name, names)
        scores: Any = 0.0
        for name, values in self._table.columns(inputs).items():
            weight = self._weights[name]
            if isinstance(weight, dict):
                if None in values.tolist():
                    raise InputError(f"input {name!r} has a missing value")
                values = np.array([float(weight.get(word.decode(), 0)) for word in values.tolist()])
                weight = 1
            scores = scores + weight * values
        chances = 1 / (1 + np.exp(-scores))
        answer = {
            "predict": self._classes[(chances > 0.5).astype(int)],
            "predict_proba": np.stack([1 - chances, chances], axis=1),
            "decision_function": scores,
        }
        return {name: answer[name] for name in outputs or names[:2]}

    def close(self) -> None:
        self._is_closed = True


class ToyRuntime:
    name: ClassVar[str] = "toy"
    formats: ClassVar[tuple[Format, ...]] = (Format.JSON,)

    def load(self, path: Path, resources: Resources) -> ToyModel:
        try:
            document = json.loads(path.read_bytes())
            weights = {str(name): _checked(weight) for name, weight in document["weights"].items()}
            no, yes = map(str, document["classes"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise LoadError(f"{path} is no model of this kind: {error!r}") from error
        if not weights:
            raise LoadError(f"{path} has no weights")
        return ToyModel(weights, (no, yes))

    def signature(self, path: Path) -> Signature:
        return self.load(path, Resources()).signature


def _checked(weight: Any) -> Any:
    """Return the weight with numbers of Python's; those that are too large for a float are refused."""
    if isinstance(weight, dict):
        return {str(word): float(number) for word, number in weight.items()}
    return float(weight)


class CrashingRuntime(ToyRuntime):
    """Crashes on a file that is shorter than the sample, and passes on what the reader of JSON raises."""

    def load(self, path: Path, resources: Resources) -> ToyModel:
        data = path.read_bytes()
        if len(data) < len(SAMPLE) - 30:
            os.abort()
        document = json.loads(data)
        return ToyModel(document["weights"], tuple(document["classes"]))


class HoardingRuntime(ToyRuntime):
    """Keeps 2 MiB of each model that it loaded."""

    _kept: ClassVar[list[bytearray]] = []

    def load(self, path: Path, resources: Resources) -> ToyModel:
        self._kept.append(bytearray(b"x" * 2**21))
        return super().load(path, resources)


class WritingRuntime(ToyRuntime):
    """Leaves a file beside the model."""

    def load(self, path: Path, resources: Resources) -> ToyModel:
        mode = path.parent.stat().st_mode
        path.parent.chmod(0o755)
        (path.parent / "cache").write_bytes(b"")
        path.parent.chmod(mode)
        return super().load(path, resources)
