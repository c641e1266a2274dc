"""Models of XGBoost, from its JSON and UBJSON."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from runtimes.base import Array, Datatype, Resources, Signature, TensorSpec
from runtimes.boosters import xgboost_dense, xgboost_file
from runtimes.boosters.categories import CategoryColumn, Rows
from runtimes.boosters.model import PREDICT, PROBABILITIES, RAW, BoosterModel
from runtimes.boosters.xgboost_dense import Predict
from runtimes.boosters.xgboost_file import XgboostFile
from runtimes.errors import LoadError
from runtimes.extras import missing_library
from runtimes.formats import Format

# The time and the line of source that XGBoost writes before each error.
_PLACE = re.compile(r"^\[[\d:]+\] \S+: ")
_MAX_SIGNATURE_BYTES = 64 * 1024 * 1024


class XgboostRuntime:
    """Loads what `save_model` wrote to a .json or .ubj file, on the CPU."""

    name: ClassVar[str] = "xgboost"
    formats: ClassVar[tuple[Format, ...]] = (Format.XGBOOST,)

    def load(self, path: Path, resources: Resources) -> XgboostModel:
        """Load the file. Raises LoadError; a file of a newer release is tried first."""
        file, data = xgboost_file.read(path)
        rows = _rows(path, file)
        booster = _booster(path, file, data, resources.threads)
        return XgboostModel(booster, file, rows)

    def signature(self, path: Path) -> Signature | None:
        """Return what the file says; None for a file above 64 MiB. Raises LoadError."""
        try:
            if path.stat().st_size > _MAX_SIGNATURE_BYTES:
                return None
        except OSError as error:
            raise LoadError(f"{path} cannot be read: {error}") from error
        file, _ = xgboost_file.read(path)
        return _signature(file, _rows(path, file))


class XgboostModel(BoosterModel):
    """A booster; it answers what the estimator of XGBoost for its objective would."""

    platform = "xgboost_model"
    pays_to_batch = True  # a call costs far more than a row

    def __init__(self, booster: Any, file: XgboostFile, rows: Rows) -> None:
        super().__init__(_signature(file, rows))
        self._predictors = {is_raw: _predictor(booster, file, is_raw=is_raw) for is_raw in (False, True)}
        self._rows = rows
        self._objective = file.objective
        self._width = _outputs(file)

    def close(self) -> None:
        """Free the booster."""
        super().close()
        self._predictors = {}

    def _compute(self, inputs: Mapping[str, Array], names: Sequence[str]) -> dict[str, Array]:
        rows = self._rows.matrix(inputs)
        results: dict[str, Array] = {}
        if RAW in names or self._objective == "multi:softmax":
            results[RAW] = self._run(rows, is_raw=True)
        if self._objective == "multi:softmax":
            powers = np.exp(results[RAW] - results[RAW].max(axis=1, keepdims=True))
            probabilities = powers / powers.sum(axis=1, keepdims=True)
            return results | _classes(probabilities)
        if PREDICT not in names and PROBABILITIES not in names:
            return results
        values = self._run(rows)
        if self._objective == "binary:logistic" and values.ndim == 2:
            # Each column is a label that a row may have.
            return results | {PREDICT: (values > 0.5).astype(np.int64), PROBABILITIES: values}
        if self._objective in ("multi:softprob", "binary:logistic"):
            return results | _classes(values)
        if self._objective == "binary:hinge":
            values = (values > 0.5).astype(np.int64)
        return results | {PREDICT: values}

    def _run(self, rows: Array, *, is_raw: bool = False) -> Array:
        if not len(rows):
            return np.zeros((0, self._width) if self._width > 1 else 0, np.float32)
        return self._predictors[is_raw](np.ascontiguousarray(rows))


def _predictor(booster: Any, file: XgboostFile, *, is_raw: bool) -> Predict:
    if file.booster != "gblinear":
        rounds = (0, 0) if file.best_iteration is None else (0, file.best_iteration + 1)
        return xgboost_dense.predictor(booster, rounds, file.missing, is_raw=is_raw)

    def predict(rows: Array) -> Array:
        from xgboost import DMatrix

        matrix = DMatrix(rows, missing=file.missing, nthread=1)
        result: Array = booster.predict(matrix, output_margin=is_raw, validate_features=False)
        return result

    return predict


def _classes(values: Array) -> dict[str, Array]:
    """Return the classes and their probabilities, as XGBClassifier makes them of what a booster gives."""
    if values.ndim == 1:
        probabilities = np.empty((len(values), 2), values.dtype)
        np.subtract(1.0, values, out=probabilities[:, 0])
        probabilities[:, 1] = values
        return {PREDICT: (values > 0.5).astype(np.int64), PROBABILITIES: probabilities}
    return {PREDICT: values.argmax(axis=1), PROBABILITIES: values}


def _outputs(file: XgboostFile) -> int:
    return max(file.classes, file.targets, 1)


def _signature(file: XgboostFile, rows: Rows) -> Signature:
    width = _outputs(file)
    shape = (-1, width) if width > 1 else (-1,)
    raw = TensorSpec(RAW, Datatype.FP32.value, shape)
    if file.objective.startswith("multi:") or (file.objective == "binary:logistic" and width == 1):
        outputs = [
            TensorSpec(PREDICT, Datatype.INT64.value, (-1,)),
            TensorSpec(PROBABILITIES, Datatype.FP32.value, (-1, max(width, 2))),
        ]
    elif file.objective == "binary:logistic":
        outputs = [
            TensorSpec(PREDICT, Datatype.INT64.value, shape),
            TensorSpec(PROBABILITIES, Datatype.FP32.value, shape),
        ]
    elif file.objective == "binary:hinge":
        outputs = [TensorSpec(PREDICT, Datatype.INT64.value, shape)]
    else:
        outputs = [TensorSpec(PREDICT, Datatype.FP32.value, shape)]
    return Signature(rows.table.inputs, tuple(outputs), on_request=(raw,))


def _rows(path: Path, file: XgboostFile) -> Rows:
    default = tuple(f"f{position}" for position in range(file.features))
    names = file.names or default
    try:
        categories = {
            position: CategoryColumn(names[position], values, may_be_unknown=False)
            for position, values in file.categories.items()
        }
    except ValueError as error:
        raise LoadError(f"{path}: {error}; train it on integer codes") from error
    if len(set(names)) < len(names):
        raise LoadError(f"{path} has several features of one name; rename them and save the model again")
    return Rows(names, names != default, categories, Datatype.FP32)


def _booster(path: Path, file: XgboostFile, data: bytes, threads: int) -> Any:
    try:
        import xgboost
    except ImportError as error:
        raise missing_library(path, "XGBoost", "xgboost", error) from error
    if data[:2] != b'{"' and data[1:2] not in b"iUIlL":
        # XGBoost takes JSON with a space before its first key for UBJSON.
        data = b"{" + data.lstrip()[1:].lstrip()
    booster = xgboost.Booster()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            booster.load_model(bytearray(data))
            booster.set_param({"nthread": threads})
    except Exception as error:
        installed = tuple(int(part) for part in xgboost.__version__.split(".")[:2] if part.isdecimal())
        made_with = ".".join(map(str, file.version))
        # The rest is a list of what there is instead, and a stack trace.
        reason = _PLACE.sub("", str(error).partition("\n")[0])
        if file.version[:2] > installed:
            raise LoadError(
                f"XGBoost {xgboost.__version__} cannot load {path}, made with {made_with}: {reason}; "
                f"pip install 'xgboost>={made_with}'"
            ) from error
        raise LoadError(
            f"XGBoost {xgboost.__version__} refuses {path}, made with {made_with}: {reason}"
        ) from error
    return booster
