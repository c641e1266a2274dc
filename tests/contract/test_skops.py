"""skops files keep the contract: what they name is checked against the allow-list before skops sees it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
)
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.svm import SVC

from runtimes.base import Array, Resources, TensorModel
from runtimes.errors import LoadError, UnsafeFormat
from runtimes.select import choose
from runtimes.skops.runtime import SkopsRuntime
from runtimes.testing import ProcessContract, TensorContract

ROWS = np.random.default_rng(0).normal(size=(40, 4))
CLASSES = np.arange(40) % 3


def save(estimator: object, directory: Path) -> Path:
    path = directory / "model.skops"
    skops.io.dump(estimator, path)
    return path


class TestSkops(TensorContract, ProcessContract):
    engine = "skops"

    @pytest.fixture
    def estimator(self) -> Any:
        return make_pipeline(StandardScaler(), RandomForestClassifier(5, random_state=0)).fit(ROWS, CLASSES)

    @pytest.fixture
    def runtime(self) -> SkopsRuntime:
        return SkopsRuntime()

    @pytest.fixture
    def model_path(self, estimator: Any, tmp_path: Path) -> Path:
        return save(estimator, tmp_path)

    @pytest.fixture
    def inputs(self) -> dict[str, Array]:
        return {"input": ROWS[:5].copy()}

    @pytest.fixture
    def expected(self, estimator: Any) -> dict[str, Array]:
        rows = ROWS[:5]
        return {"predict": estimator.predict(rows), "predict_proba": estimator.predict_proba(rows)}

    def test_is_chosen_and_says_what_it_is(self, model_path: Path, model: TensorModel) -> None:
        choice = choose(model_path.parent)
        assert (choice.runtime.name, model.platform) == ("skops", "sklearn_skops")


@pytest.mark.parametrize(
    "estimator",
    [
        LogisticRegression(),
        LinearRegression(),
        GradientBoostingClassifier(n_estimators=3),
        HistGradientBoostingClassifier(max_iter=3),
        KNeighborsClassifier(),
        SVC(),
        IsolationForest(n_estimators=5, random_state=0),
        make_pipeline(FunctionTransformer(np.exp), LogisticRegression()),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_estimators_answer_as_they_do(tmp_path: Path, estimator: Any) -> None:
    estimator.fit(ROWS, CLASSES)
    model = SkopsRuntime().load(save(estimator, tmp_path), Resources())
    np.testing.assert_allclose(model.infer({"input": ROWS})["predict"], estimator.predict(ROWS))


def test_named_columns_and_strings(tmp_path: Path) -> None:
    table = pd.DataFrame({"age": ROWS[:, 0], "city": np.array(["Ulm", "Bonn"])[CLASSES % 2]})
    columns = ColumnTransformer([("age", StandardScaler(), ["age"]), ("city", OneHotEncoder(), ["city"])])
    estimator = make_pipeline(columns, LogisticRegression()).fit(table, CLASSES > 0)
    model = SkopsRuntime().load(save(estimator, tmp_path), Resources())
    assert [spec.name for spec in model.signature.all_inputs] == ["age", "city"]
    inputs = {
        "age": ROWS[:, :1],
        "city": np.array([text.encode() for text in table["city"]], dtype=object).reshape(-1, 1),
    }
    np.testing.assert_array_equal(model.infer(inputs)["predict"], estimator.predict(table))


def changed(path: Path, change: Callable[[Any], None]) -> Path:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    schema = json.loads(members["schema.json"])
    change(schema)
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in {**members, "schema.json": json.dumps(schema).encode()}.items():
            archive.writestr(name, content)
    path.write_bytes(data.getvalue())
    return path


def test_what_code_in_c_would_follow_is_refused_as_in_pickles(tmp_path: Path) -> None:
    encoder = OneHotEncoder().fit(CLASSES.reshape(-1, 1))
    encoder._n_features_outs = [1]
    hidden = LogisticRegression().fit(ROWS, CLASSES)
    hidden.decision_function = np.log
    neighbours = KNeighborsClassifier().fit(ROWS, CLASSES)
    neighbours._y = neighbours._y + 9
    for estimator, words in (
        (encoder, "other categories than columns"),
        (hidden, "hides its method"),
        (make_pipeline(neighbours), "a label that is no class"),
    ):
        with pytest.raises(LoadError, match=words):
            SkopsRuntime().load(save(estimator, tmp_path), Resources())


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"__class__": "system", "__module__": "os", "__loader__": "FunctionNode"}, r"names 'os\.system'"),
        (
            {"__class__": "Popen", "__module__": "subprocess", "__loader__": "ObjectNode"},
            r"subprocess\.Popen",
        ),
        ({"__class__": "eval", "__module__": "builtins", "__loader__": "TypeNode"}, r"builtins\.eval"),
        ({"__class__": "Popen", "__module__": "subprocess", "__loader__": "DictNode"}, r"subprocess\.Popen"),
        (
            {"__class__": "methodcaller", "__module__": "operator", "__loader__": "OperatorFuncNode"},
            "'OperatorFuncNode' of 'operator.methodcaller', .*never loaded",
        ),
        ({"__class__": "LogisticRegression", "__module__": "x", "__loader__": "MethodNode"}, "MethodNode"),
        ({"__class__": "partial", "__module__": "functools", "__loader__": "PartialNode"}, "PartialNode"),
        ({"__class__": "Popen", "__module__": "x", "__loader__": "ConstructorFromReduceNode"}, "Constructor"),
    ],
)
def test_what_is_not_on_the_list_is_refused_by_name(
    tmp_path: Path, node: dict[str, str], message: str
) -> None:
    path = save(LogisticRegression().fit(ROWS, CLASSES), tmp_path)
    changed(path, lambda schema: schema["content"]["content"].update(extra=node))
    with pytest.raises(UnsafeFormat, match=message):
        SkopsRuntime().check(path)


def test_without_skops_it_says_what_to_install(tmp_path: Path) -> None:
    path = save(LogisticRegression().fit(ROWS, CLASSES), tmp_path)
    program = (
        "import sys; sys.modules['skops'] = None\n"
        "from pathlib import Path\nfrom runtimes.base import Resources\n"
        "from runtimes.errors import LoadError\n"
        "from runtimes.select import check, choose\n"
        f"choice = choose(Path({str(path)!r})); check(choice)\n"
        "try: choice.runtime.load(choice.path, Resources())\n"
        "except LoadError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "model.skops needs skops: pip install 'kitserve[skops]'" in done.stdout


def test_a_file_that_is_cut_is_named(tmp_path: Path) -> None:
    path = save(LogisticRegression().fit(ROWS, CLASSES), tmp_path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(LoadError, match=r"model\.skops is no whole skops file but zip, cut short"):
        SkopsRuntime().check(path)
