"""Models of CatBoost, from its binary files (cbm) and its JSON."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from runtimes.base import Array, Datatype, Resources, Signature, TensorSpec
from runtimes.boosters.model import PREDICT, PROBABILITIES, RAW, BoosterModel
from runtimes.errors import ExecutionError, InputError, LoadError
from runtimes.extras import missing_library
from runtimes.formats import Format
from runtimes.tables import Table, column
from runtimes.trial import Trial

_TRIAL_BYTES = 8 << 30
_ROWS = np.array([0, 1, -1, 1e30, -1e30, np.inf, -np.inf, np.nan], np.float32)
_TEXTS = (b"0", b"", b"a b")


class CatboostRuntime:
    """Loads what `save_model` wrote as cbm or as JSON, on the CPU.

    CatBoost ends its process over some damaged files, and only it can read all of a cbm file. So a child
    process loads each file first, and predicts some rows.
    """

    name: ClassVar[str] = "catboost"
    formats: ClassVar[tuple[Format, ...]] = (Format.CATBOOST,)

    def load(self, path: Path, resources: Resources) -> CatboostModel:
        """Load the file. Raises LoadError."""
        try:
            size = path.stat().st_size
        except OSError as error:
            raise LoadError(f"{path} cannot be read: {error}") from error
        with trial(size, path.parent) as rehearsal:
            # The child imports it at the same time.
            with contextlib.suppress(ImportError):
                import catboost  # noqa: F401
            rehearsal.check(path)
        return load(path, resources.threads)

    def signature(self, path: Path) -> None:  # noqa: ARG002
        """Return None: CatBoost's binary file is read by CatBoost alone."""
        return


def trial(size: int = 0, directory: Path | None = None) -> Trial:
    """Start a child process that tries files of at most `size` bytes."""
    return Trial("CatBoost", f"{__name__}:rehearse", _TRIAL_BYTES + 16 * size, directory)


def rehearse(path: Path) -> None:
    """Load the file and have it predict rows of all kinds. Raises LoadError."""
    model = load(path, 1)
    inputs = {
        spec.name: np.array([_TEXTS[row % len(_TEXTS)] for row in range(len(_ROWS))], object)
        if spec.datatype == Datatype.BYTES
        else np.repeat(_ROWS[:, None], (spec.shape or (1,))[-1], axis=1)
        for spec in model.signature.inputs
    }
    try:
        model.infer(inputs, [spec.name for spec in model.signature.all_outputs])
    except ExecutionError as error:
        raise LoadError(f"{path} cannot predict: {error}") from error


class CatboostModel(BoosterModel):
    """A model; it answers what the estimator of CatBoost for its loss would."""

    platform = "catboost_model"
    pays_to_batch = True  # a call costs far more than a row

    def __init__(self, model: Any, threads: int) -> None:
        self._model = model
        self._threads = threads
        self._texts = model.get_cat_feature_indices(), model.get_text_feature_indices()
        names = [str(name) for name in model.feature_names_]
        texts = {*self._texts[0], *self._texts[1]}
        self._may_not_miss = [names[position] for position in sorted(texts)]
        if texts or names != [str(position) for position in range(len(names))]:
            specs = [
                _text(name) if position in texts else column(name, Datatype.FP32)
                for position, name in enumerate(names)
            ]
            self._table = Table.of_columns(specs)
        else:
            self._table = Table.of_matrix(len(names), Datatype.FP32)
        self._classes: Array = np.asarray(model.classes_)
        loss = str(model.get_all_params().get("loss_function", ""))
        if loss.startswith("CrossEntropy") and not len(self._classes):
            self._classes = np.array([0, 1])
        self._kinds = {PREDICT: _kind(loss), RAW: "RawFormulaVal"}
        if len(self._classes):
            self._kinds = {PREDICT: "Class", PROBABILITIES: "Probability", RAW: "RawFormulaVal"}
        row: Array = np.zeros((1, len(names)), object if texts else np.float32)
        row[:, sorted(texts)] = "0" if texts else 0
        specs = [
            TensorSpec(name, Datatype.of(result.dtype).value, (-1, *result.shape[1:]))
            for name, result in self._run(row, tuple(self._kinds)).items()
        ]
        super().__init__(Signature(self._table.inputs, tuple(specs[:-1]), on_request=tuple(specs[-1:])))

    @property
    def labels(self) -> Mapping[str, tuple[str, ...]]:
        """The names of the classes, unless they are their numbers."""
        names = tuple(map(str, self._classes.tolist()))
        is_named = bool(names) and names != tuple(map(str, range(len(names))))
        return {PROBABILITIES: names} if is_named else {}

    def close(self) -> None:
        """Free the model."""
        super().close()
        self._model = None

    def _compute(self, inputs: Mapping[str, Array], names: Sequence[str]) -> dict[str, Array]:
        if not self._may_not_miss:
            rows = self._table.matrix(inputs, Datatype.FP32.numpy)
        else:
            columns = self._table.columns(inputs)
            rows = np.empty((len(next(iter(columns.values()))), self._table.width), object)
            for position, (name, values) in enumerate(columns.items()):
                rows[:, position] = _strings(name, values) if name in self._may_not_miss else values
        if not len(rows):
            return {
                spec.name: np.zeros((0, *(spec.shape or ())[1:]), Datatype(spec.datatype).numpy)
                for spec in self.signature.all_outputs
            }
        return self._run(np.ascontiguousarray(rows), names)

    def _run(self, rows: Array, names: Sequence[str]) -> dict[str, Array]:
        from catboost import Pool

        cats, texts = self._texts
        pool = Pool(rows, cat_features=cats or None, text_features=texts or None, thread_count=self._threads)
        return {
            name: _typed(
                self._model.predict(pool, prediction_type=self._kinds[name], thread_count=self._threads)
            )
            for name in names
        }


def load(path: Path, threads: int) -> CatboostModel:
    """Load the file into this process. Raises LoadError."""
    try:
        import catboost
    except ImportError as error:
        raise missing_library(path, "CatBoost", "catboost", error) from error
    model = catboost.CatBoost()
    try:
        with path.open("rb") as file:
            is_binary = file.read(4) == b"CBM1"
        model.load_model(str(path), format="cbm" if is_binary else "json")
        embeddings = model.get_embedding_feature_indices()
    except Exception as error:
        raise LoadError(f"CatBoost {catboost.__version__} refuses {path}: {error}") from error
    if embeddings:
        raise LoadError(f"{path} takes embeddings as features, which is not served; train it without them")
    try:
        return CatboostModel(model, threads)
    except Exception as error:
        raise LoadError(f"{path} cannot predict with CatBoost {catboost.__version__}: {error}") from error


def _text(name: str) -> TensorSpec:
    """Return the input for a column of strings; CatBoost takes no missing ones."""
    return TensorSpec(name, Datatype.BYTES.value, (-1, 1))


def _strings(name: str, values: Array) -> list[str]:
    try:
        return [
            value.decode() if isinstance(value, bytes) else _whole(name, value) for value in values.tolist()
        ]
    except UnicodeDecodeError as error:
        raise InputError(f"input {name!r} holds bytes that are not UTF-8: {error}") from error


def _whole(name: str, value: object) -> str:
    if value is None:
        raise InputError(
            f"input {name!r} has a missing value, which CatBoost does not take in a column of strings; send "
            "the string that stood for it in the training"
        )
    return str(value)


def _kind(loss: str) -> str:
    """Return what CatBoostRegressor predicts for a loss."""
    if loss.startswith(("Poisson", "Tweedie")):
        return "Exponent"
    return "RMSEWithUncertainty" if loss == "RMSEWithUncertainty" else "RawFormulaVal"


def _typed(result: Any) -> Array:
    """Return a prediction as a tensor: strings as bytes, one class a row without an axis of its own."""
    array: Array = np.asarray(result)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.dtype.kind not in "OSU":
        return array
    return np.array([str(value).encode() for value in array.reshape(-1)], object).reshape(array.shape)
