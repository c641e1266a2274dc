"""Models of LightGBM, from its text files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from runtimes.base import Array, Datatype, Resources, Signature, TensorSpec
from runtimes.boosters import lightgbm_file
from runtimes.boosters.categories import CategoryColumn, Rows
from runtimes.boosters.lightgbm_file import LightgbmFile
from runtimes.boosters.model import PREDICT, PROBABILITIES, RAW, BoosterModel
from runtimes.errors import LoadError
from runtimes.extras import missing_library
from runtimes.formats import Format


class LightgbmRuntime:
    """Loads what `save_model` wrote, on the CPU."""

    name: ClassVar[str] = "lightgbm"
    formats: ClassVar[tuple[Format, ...]] = (Format.LIGHTGBM,)

    def load(self, path: Path, resources: Resources) -> LightgbmModel:
        """Load the file. Raises LoadError."""
        file, text = lightgbm_file.read(path)
        rows = _rows(path, file)
        try:
            import lightgbm
        except ImportError as error:
            raise missing_library(path, "LightGBM", "lightgbm", error) from error
        try:
            booster = lightgbm.Booster(model_str=text)
        except Exception as error:
            raise LoadError(f"LightGBM {lightgbm.__version__} refuses {path}: {error}") from error
        return LightgbmModel(booster, file, rows, resources.threads)

    def signature(self, path: Path) -> Signature:
        """Return what the beginning and the end of the file say. Raises LoadError."""
        file = lightgbm_file.read_header(path)
        return _signature(file, _rows(path, file))


class LightgbmModel(BoosterModel):
    """A booster; it answers what the estimator of LightGBM for its objective would."""

    platform = "lightgbm_text"
    pays_to_batch = True  # a call costs far more than a row

    def __init__(self, booster: Any, file: LightgbmFile, rows: Rows, threads: int) -> None:
        super().__init__(_signature(file, rows))
        self._booster = booster
        self._rows = rows
        self._threads = threads
        self._is_classifier = _is_classifier(file)
        self._width = file.outputs

    def close(self) -> None:
        """Free the booster."""
        super().close()
        self._booster = None

    def _compute(self, inputs: Mapping[str, Array], names: Sequence[str]) -> dict[str, Array]:
        rows = self._rows.matrix(inputs)
        results: dict[str, Array] = {}
        if RAW in names:
            results[RAW] = self._run(rows, is_raw=True)
        if PREDICT not in names and PROBABILITIES not in names:
            return results
        values = self._run(rows)
        if not self._is_classifier:
            return results | {PREDICT: values}
        if values.ndim == 1:
            values = np.stack([1.0 - values, values], axis=1)
        return results | {PREDICT: values.argmax(axis=1), PROBABILITIES: values}

    def _run(self, rows: Array, *, is_raw: bool = False) -> Array:
        if not len(rows):
            return np.zeros((0, self._width) if self._width > 1 else 0)
        result: Array = self._booster.predict(
            np.ascontiguousarray(rows), raw_score=is_raw, num_threads=self._threads
        )
        return result


def _is_classifier(file: LightgbmFile) -> bool:
    return file.objective.partition(" ")[0] in ("binary", "multiclass", "multiclassova")


def _signature(file: LightgbmFile, rows: Rows) -> Signature:
    shape = (-1, file.outputs) if file.outputs > 1 else (-1,)
    raw = TensorSpec(RAW, Datatype.FP64.value, shape)
    if _is_classifier(file):
        outputs = [
            TensorSpec(PREDICT, Datatype.INT64.value, (-1,)),
            TensorSpec(PROBABILITIES, Datatype.FP64.value, (-1, max(file.outputs, 2))),
        ]
    else:
        outputs = [TensorSpec(PREDICT, Datatype.FP64.value, shape)]
    return Signature(rows.table.inputs, tuple(outputs), on_request=(raw,))


def _rows(path: Path, file: LightgbmFile) -> Rows:
    default = tuple(f"Column_{position}" for position in range(file.features))
    if len(set(file.names)) < len(file.names):
        raise LoadError(f"{path} has several features of one name; rename them and save the model again")
    try:
        categories = {
            position: CategoryColumn(file.names[position], values, may_be_unknown=True)
            for position, values in _categories(file).items()
        }
    except ValueError as error:
        raise LoadError(
            f"{path}: {error}; train it on columns that are unordered categories of strings or numbers, or "
            "on integer codes"
        ) from error
    return Rows(file.names, file.names != default, categories, Datatype.FP64)


def _categories(file: LightgbmFile) -> dict[int, tuple[object, ...]]:
    """Return the values of the columns that were categories of pandas, by column.

    The file has these values without saying of which columns they are. Where pandas' categories and those
    that the model was trained to take are as many, and the codes fit, they are the same columns.

    Raises:
        ValueError: where that is not so, as of ordered categories, which are trained on as numbers.
    """
    if not file.categories:
        return {}
    lists = [position for position, info in enumerate(file.infos) if info[0] not in "[n"]
    columns = file.categorical or tuple(lists)
    if len(columns) != len(file.categories):
        raise ValueError(
            f"it has the values of {len(file.categories)} columns of pandas' categories, and takes "
            f"{len(columns)} columns as categories, so which are which cannot be told"
        )
    categories = dict(zip(columns, file.categories, strict=True))
    for position, values in categories.items():
        info = file.infos[position]
        codes = [] if info == "none" else info.split(":")
        if info[0] == "[" or not all(-1 <= int(code) < len(values) for code in codes):
            raise ValueError(f"the values of {file.names[position]!r} do not fit its categories")
    return categories
