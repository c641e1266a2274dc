"""Kits of classic models, each made by its library and packed as kit packs it, with the library's answers.

`made` makes all of them in a process of its own, so that the tests' process has none of the libraries, nor
their threads and warnings.
"""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from runtimes.base import Array, Datatype
from tests.support.artifacts import LayoutBuilder
from tests.support.kitops import pack_kit

Files = Mapping[str, bytes]

_COUNT = 120
_ASKED = 3
"""How many rows a call has."""


@dataclass(frozen=True, slots=True)
class ClassicKit:
    """A kit, a call on its model, and what the library itself says to that."""

    runtime: str
    """The name of the runtime that is to serve it."""
    path: str
    """The Kitfile's model.path."""
    files: Files
    inputs: Mapping[str, Array]
    expected: Mapping[str, Array]
    """By output; those that a call gets which names none."""
    code: Files = field(default_factory=dict)
    """What is in the code layer, if there is one."""

    def pack(self, builder: LayoutBuilder, name: str) -> str:
        """Pack it under a name, "NAME:TAG"; return its digest."""
        layers: list[tuple[str, str, Mapping[str, bytes | None]]] = []
        if self.files:
            layers.append(("model", self.path, dict(self.files)))
        if self.code:
            layers.append(("code", ".", dict(self.code)))
        return pack_kit(builder, name, *layers)

    def tensors(self) -> list[dict[str, Any]]:
        """Return the inputs as the Open Inference Protocol has them in JSON."""
        return [
            {
                "name": name,
                "shape": list(array.shape),
                "datatype": Datatype.of(array.dtype).value,
                "data": plain(array.ravel()),
            }
            for name, array in self.inputs.items()
        ]

    def rows(self) -> list[Any]:
        """Return the same as a person writes it: objects, or lists where the columns have no names."""
        if len(self.inputs) == 1:
            (array,) = self.inputs.values()
            if array.shape[-1] > 1:
                return list(plain(array))
        columns = {name: plain(array.ravel()) for name, array in self.inputs.items()}
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def plain(array: Array) -> Any:
    """Return an array as lists of Python's own values; bytes as text."""
    return _decoded(array.tolist())


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    return value.decode() if isinstance(value, bytes) else value


def texts(values: Sequence[Any]) -> Array:
    """Return strings as a tensor of them, [n]."""
    result = np.empty(len(values), object)
    result[:] = [str(value).encode() for value in values]
    return result


@cache
def people() -> Any:
    """Return the columns that models of rows are fitted on: two of numbers, one of strings. A DataFrame."""
    import pandas as pd

    chance = np.random.default_rng(3)
    towns = np.array(["Bergen", "Oslo", "Tromsø"])[chance.integers(0, 3, _COUNT)]
    return pd.DataFrame(
        {
            "age": chance.integers(18, 80, _COUNT).astype(np.float64),
            "income": chance.normal(50, 20, _COUNT).round(2),
            "town": towns,
        }
    )


def answers() -> Array:
    """Return the classes of these rows, as strings."""
    frame = people()
    is_yes = (frame["income"] + 10 * (frame["town"] == "Oslo") > 0.9 * frame["age"]).to_numpy()
    return np.where(is_yes, "yes", "no")


def _columns(*names: str) -> dict[str, Array]:
    """Return the first rows as inputs by name."""
    frame = people()[:_ASKED]
    return {
        name: (texts(frame[name]) if name == "town" else frame[name].to_numpy()).reshape(-1, 1)
        for name in names
    }


def _numbers() -> Any:
    return people()[["age", "income"]]


def _estimator() -> Any:
    """Return a pipeline of scikit-learn on named columns with strings, fitted."""
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    columns = ColumnTransformer(
        [
            ("numbers", StandardScaler(), ["age", "income"]),
            ("words", OneHotEncoder(handle_unknown="ignore"), ["town"]),
        ]
    )
    return make_pipeline(columns, LogisticRegression()).fit(people(), answers())


def _of_estimator(estimator: Any) -> dict[str, Array]:
    rows = people()[:_ASKED]
    return {"predict": texts(estimator.predict(rows)), "predict_proba": estimator.predict_proba(rows)}


def sklearn_joblib() -> ClassicKit:
    """A classifier of scikit-learn on named columns with strings, in a compressed file of joblib."""
    import joblib

    estimator, file = _estimator(), io.BytesIO()
    joblib.dump(estimator, file, compress=3)
    files = {"model.joblib": file.getvalue()}
    return ClassicKit(
        "sklearn", "model.joblib", files, _columns("age", "income", "town"), _of_estimator(estimator)
    )


def skops() -> ClassicKit:
    """The same classifier as a file of skops."""
    import skops.io

    estimator = _estimator()
    files = {"model.skops": skops.io.dumps(estimator)}
    return ClassicKit(
        "skops", "model.skops", files, _columns("age", "income", "town"), _of_estimator(estimator)
    )


def mlflow() -> ClassicKit:
    """The same classifier as MLflow saves it, with its signature and an example."""
    import mlflow.sklearn
    from mlflow.models import infer_signature

    estimator, rows = _estimator(), people()[:_ASKED]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "model")
        mlflow.sklearn.save_model(
            estimator,
            path,
            signature=infer_signature(rows, estimator.predict(rows)),
            input_example=rows,
            serialization_format="skops",
        )
        files = _below(path, "model")
    return ClassicKit("skops", "model", files, _columns("age", "income", "town"), _of_estimator(estimator))


def pickled_xgboost() -> ClassicKit:
    """A classifier of XGBoost's interface for scikit-learn, in a pickle."""
    from xgboost import XGBClassifier

    model = XGBClassifier(n_estimators=5, n_jobs=1).fit(_numbers(), (answers() == "yes").astype(int))
    rows = _numbers()[:_ASKED]
    expected = {"predict": model.predict(rows), "predict_proba": model.predict_proba(rows)}
    files = {"model.pkl": pickle.dumps(model)}
    return ClassicKit("sklearn", "model.pkl", files, _columns("age", "income"), expected)


def xgboost_json() -> ClassicKit:
    """A classifier of XGBoost with three classes, in its JSON."""
    from xgboost import XGBClassifier

    classes = people()["town"].map({"Bergen": 0, "Oslo": 1, "Tromsø": 2}).to_numpy()
    model = XGBClassifier(n_estimators=5, n_jobs=1).fit(_numbers(), classes)
    rows = _numbers()[:_ASKED]
    expected = {"predict": model.predict(rows), "predict_proba": model.predict_proba(rows)}
    files = {"model.json": bytes(model.get_booster().save_raw("json"))}
    return ClassicKit("xgboost", "model.json", files, _columns("age", "income"), expected)


def xgboost_ubj() -> ClassicKit:
    """A regressor of XGBoost, in its UBJSON."""
    from xgboost import XGBRegressor

    model = XGBRegressor(n_estimators=5, n_jobs=1).fit(_numbers(), people()["age"] * 2)
    files = {"model.ubj": bytes(model.get_booster().save_raw("ubj"))}
    expected = {"predict": model.predict(_numbers()[:_ASKED])}
    return ClassicKit("xgboost", "model.ubj", files, _columns("age", "income"), expected)


def lightgbm() -> ClassicKit:
    """A regressor of LightGBM, in its text."""
    from lightgbm import LGBMRegressor

    model = LGBMRegressor(n_estimators=5, n_jobs=1, verbose=-1, min_child_samples=5)
    model.fit(_numbers(), people()["age"] * 2)
    files = {"model.txt": model.booster_.model_to_string().encode()}
    expected = {"predict": np.asarray(model.booster_.predict(_numbers()[:_ASKED]))}
    return ClassicKit("lightgbm", "model.txt", files, _columns("age", "income"), expected)


def catboost() -> ClassicKit:
    """A classifier of CatBoost with a column of categories, in its own format."""
    from catboost import CatBoostClassifier

    frame = people()
    frame = frame.assign(town=frame["town"].astype(object))
    model = CatBoostClassifier(
        iterations=5, depth=3, verbose=False, thread_count=1, cat_features=["town"], allow_writing_files=False
    )
    model.fit(frame, answers())
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "model.cbm")
        model.save_model(str(path))
        files = {"model.cbm": path.read_bytes()}
    rows = frame[:_ASKED]
    expected: dict[str, Array] = {
        "predict": texts(model.predict(rows)),
        "predict_proba": np.asarray(model.predict_proba(rows)),
    }
    return ClassicKit("catboost", "model.cbm", files, _columns("age", "income", "town"), expected)


def openvino() -> ClassicKit:
    """A small graph of OpenVINO: softmax(x W)."""
    import openvino as ov
    from openvino import opset13 as ops

    weights = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    x = ops.parameter(ov.PartialShape([-1, 4]), ov.Type.f32, name="x")
    x.output(0).set_names({"x"})
    scores = ops.softmax(ops.matmul(x, ops.constant(weights), False, False), 1)
    scores.output(0).set_names({"scores"})
    rows = _matrix()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "model.xml")
        ov.save_model(ov.Model([scores.output(0)], [x], "sample"), path, compress_to_fp16=False)
        exact = {"INFERENCE_PRECISION_HINT": "f32"}
        compiled = ov.Core().compile_model(path, "CPU", exact)
        expected = {"scores": np.array(compiled({"x": rows})[0])}
        files = {
            "model/model.xml": path.read_bytes(),
            "model/model.bin": path.with_suffix(".bin").read_bytes(),
        }
    return ClassicKit("openvino", "model", files, {"x": rows}, expected)


def saved_model() -> ClassicKit:
    """A SavedModel of TensorFlow with a signature: tanh(x W)."""
    import tensorflow as tf

    weights = np.random.default_rng(1).normal(size=(4, 2)).astype(np.float32)

    class Scorer(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.weights = tf.Variable(weights)

        @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])  # type: ignore[untyped-decorator]
        def serve(self, x: Any) -> Any:
            return {"scores": tf.tanh(tf.matmul(x, self.weights))}

    module = Scorer()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "model")
        tf.saved_model.save(module, str(path), signatures={"serving_default": module.serve})
        files = _below(path, "model")
    rows = _matrix()
    expected = {"scores": module.serve(tf.constant(rows))["scores"].numpy()}
    return ClassicKit("tensorflow", "model", files, {"x": rows}, expected)


def keras() -> ClassicKit:
    """A model of Keras with two dense layers."""
    import keras as library

    library.utils.set_random_seed(5)
    x = library.Input((4,), name="x")
    hidden = library.layers.Dense(8, activation="relu", name="hidden")(x)
    model = library.Model(x, library.layers.Dense(3, activation="softmax", name="scores")(hidden))
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "model.keras")
        model.save(path)
        files = {"model.keras": path.read_bytes()}
    rows = _matrix()
    # The one output of a model has no name that Keras keeps.
    return ClassicKit("keras", "model.keras", files, {"x": rows}, {"output_0": model(rows).numpy()})


_PYTHON = b'''"""A model in Python: a price by size and town."""

import json
from pathlib import Path


class Prices:
    def load(self, path: Path) -> None:
        self.prices = json.loads((path / "prices.json").read_text())

    def predict(self, size: list[float], town: list[str]) -> list[float]:
        return [each * self.prices[name] for each, name in zip(size, town, strict=True)]
'''


def python() -> ClassicKit:
    """A model that is a class of Python in the kit's code."""
    inputs = {"size": np.array([10.0, 20.0, 30.0]), "town": texts(["Oslo", "Bergen", "Oslo"])}
    return ClassicKit(
        "python",
        "prices.json",
        {"prices.json": b'{"Oslo": 3.0, "Bergen": 2.0}'},
        inputs,
        {"predict": np.array([30.0, 40.0, 90.0])},
        {"kitserve.py": _PYTHON},
    )


SERVED: Mapping[str, Callable[[], ClassicKit]] = {
    "sklearn-joblib": sklearn_joblib,
    "xgboost-pickle": pickled_xgboost,
    "xgboost-json": xgboost_json,
    "xgboost-ubj": xgboost_ubj,
    "lightgbm": lightgbm,
    "catboost": catboost,
    "skops": skops,
    "mlflow": mlflow,
    "openvino": openvino,
    "saved-model": saved_model,
    "keras": keras,
}
"""What is served with no policy written."""
CODE = "python"
"""The name of the kit that runs code."""


def made() -> dict[str, ClassicKit]:
    """Make every kit, by name."""
    program = "from tests.support.classic_kits import _write; _write()"
    quiet = {"OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    environment = {**os.environ, **quiet, "PYTHONPATH": os.pathsep.join(sys.path)}
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "kits")
        command = [sys.executable, "-c", program, str(file)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-4000:]
        kits: dict[str, ClassicKit] = pickle.loads(file.read_bytes())
    return kits


def _write() -> None:
    """Make every kit, and write them to the file that the command line names."""
    kits = {name: make() for name, make in {**SERVED, CODE: python}.items()}
    Path(sys.argv[1]).write_bytes(pickle.dumps(kits))


def _matrix() -> Array:
    """Return rows of bare numbers, FP32 [n, 4]."""
    rows: Array = np.random.default_rng(2).normal(size=(_ASKED, 4)).round(3).astype(np.float32)
    return rows


def _below(directory: Path, prefix: str) -> dict[str, bytes]:
    """Return the files below a directory, by their paths below `prefix`."""
    return {
        f"{prefix}/{path.relative_to(directory)}": path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
