"""Estimators of scikit-learn, from joblib files and pickles.

Loading one runs code that is in the file, so `select.choose` chooses such a file only where that is allowed.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from runtimes.base import Array, Datatype, InputCheck, Resources, Signature, TensorSpec, unknown_output
from runtimes.errors import ExecutionError, InputError, LoadError
from runtimes.formats import Format, identify

log = logging.getLogger(__name__)

_PROBABILITIES = "probabilities"
# How scikit-learn's errors about wrong rows begin; its other errors are the estimator's own.
_INPUT_ERRORS = ("Input ", "Found array ")


class SklearnRuntime:
    """Loads files of `joblib.dump` and `pickle.dump`, compressed ones included, on the CPU."""

    name: ClassVar[str] = "sklearn"
    formats: ClassVar[tuple[Format, ...]] = (Format.PICKLE,)

    def load(self, path: Path, resources: Resources) -> SklearnModel:
        """Load the file, which runs code that is in it. Raises LoadError.

        A file of another version of scikit-learn is loaded, and that is logged: most such files work, and to
        refuse them would refuse every kit after each upgrade of the server. As every estimator predicts one
        row of zeros here, one that does not work fails now and not at its first call.
        """
        format_ = identify(path)
        if format_ is not Format.PICKLE:
            raise LoadError(f"{path} is no whole pickle but {format_.title}; save the model again")
        estimator, version = _unpickle(path)
        try:
            _limit_threads(estimator, resources.threads)
            return SklearnModel(estimator, _signature(estimator, path))
        except (AttributeError, ImportError, KeyError, TypeError) as error:
            raise LoadError(
                f"{path} was made with scikit-learn {version}, and its {type(estimator).__name__} does not "
                f"work with the one installed: {error!r}; install that version, or make the model again"
            ) from error

    def signature(self, path: Path) -> None:  # noqa: ARG002
        """Return None: the signature is known only once the pickle is loaded."""
        return


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


def _unpickle(path: Path) -> tuple[Any, str]:
    """Load the file; return the estimator and the version of scikit-learn that made it."""
    try:
        import joblib
        import sklearn
        from sklearn.base import BaseEstimator
        from sklearn.exceptions import InconsistentVersionWarning
    except ImportError as error:
        raise LoadError(f"{path} needs scikit-learn: pip install 'kitserve[sklearn]' ({error})") from error
    version = sklearn.__version__
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", InconsistentVersionWarning)
        failure = None
        try:
            estimator = joblib.load(path)
        except Exception as error:
            failure = error
    for warning in caught:
        if isinstance(warning.message, InconsistentVersionWarning):
            version = warning.message.original_sklearn_version
    if failure is not None:
        raise LoadError(
            f"scikit-learn {sklearn.__version__} cannot load {path}, made with {version}: {failure!r}"
        ) from failure
    if version != sklearn.__version__:
        versions = {"path": str(path), "made_with": version, "installed": sklearn.__version__}
        log.warning("made with another scikit-learn", extra=versions)
    if not isinstance(estimator, BaseEstimator) or not hasattr(estimator, "predict"):
        raise LoadError(
            f"{path} holds a {type(estimator).__name__}, not an estimator of scikit-learn that predicts; "
            "save the whole estimator or pipeline"
        )
    return estimator, version


def _limit_threads(estimator: Any, threads: int) -> None:
    """Limit the threads of the estimator and of this process's linear algebra libraries."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(threads)
    parallel = {
        name: threads
        for name, value in estimator.get_params().items()
        if name.rpartition("__")[2] == "n_jobs" and value is not None
    }
    estimator.set_params(**parallel)


def _signature(estimator: Any, path: Path) -> Signature:
    from sklearn.base import is_regressor

    features = getattr(estimator, "n_features_in_", None)
    if not isinstance(features, int):
        raise LoadError(
            f"{path}: its {type(estimator).__name__} does not say how many numbers it takes "
            "(n_features_in_); fit it on a table of numbers, or export it to ONNX"
        )
    name, datatype = ("prediction", Datatype.FP64) if is_regressor(estimator) else ("label", Datatype.INT64)
    classes = getattr(estimator, "classes_", None)
    outputs = []
    if isinstance(classes, np.ndarray):
        datatype = _label_datatype(classes)
        if hasattr(estimator, "predict_proba"):
            outputs.append(TensorSpec(_PROBABILITIES, Datatype.FP64.value, (-1, len(classes))))
    try:
        row = np.asarray(estimator.predict(np.zeros((1, features))))
    except ValueError:
        # The model may refuse zeros; then the shape is not known.
        shape = None
    else:
        shape = (-1, *row.shape[1:])
    outputs.insert(0, TensorSpec(name, datatype.value, shape))
    return Signature((TensorSpec("input", Datatype.FP64.value, (-1, features)),), tuple(outputs))


def _label_datatype(classes: Array) -> Datatype:
    kinds = {"i": Datatype.INT64, "u": Datatype.INT64, "b": Datatype.BOOL, "f": Datatype.FP64}
    return kinds.get(classes.dtype.kind, Datatype.BYTES)


def _method(estimator: Any, output: str) -> Callable[[Array], Any]:
    method: Callable[[Array], Any] = (
        estimator.predict_proba if output == _PROBABILITIES else estimator.predict
    )
    return method


def _typed(result: Any, datatype: Datatype) -> Array:
    array: Array = np.asarray(result)
    if datatype is not Datatype.BYTES:
        return array.astype(datatype.numpy, copy=False)
    texts = [item if isinstance(item, bytes) else str(item).encode() for item in array.reshape(-1).tolist()]
    return np.array(texts, dtype=object).reshape(array.shape)
