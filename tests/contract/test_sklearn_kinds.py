"""Each kind of estimator answers as the library does, by the names of its methods."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from sklearn import (
    cluster,
    cross_decomposition,
    decomposition,
    discriminant_analysis,
    ensemble,
    gaussian_process,
    linear_model,
    mixture,
    naive_bayes,
    neighbors,
    neural_network,
    svm,
    tree,
)
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.covariance import EllipticEnvelope
from sklearn.dummy import DummyClassifier
from sklearn.feature_selection import RFE, SelectKBest
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier, MultiOutputRegressor
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import (
    KBinsDiscretizer,
    LabelEncoder,
    OneHotEncoder,
    PolynomialFeatures,
    PowerTransformer,
    QuantileTransformer,
    StandardScaler,
)
from sklearn.semi_supervised import LabelPropagation

from runtimes.base import Array, BatchedModel, Datatype, ExemplaryModel, LabelledModel
from runtimes.errors import InputError, LoadError
from tests.support.estimators import model_from

RANDOM = np.random.default_rng(0)
X = np.abs(RANDOM.normal(size=(60, 4)))
Y = np.arange(60) % 3
NAMES = np.array(["rose", "lily", "øre"])[Y]
TWO = np.stack([Y, Y > 0], axis=1)
REAL = X @ np.array([1.0, -2.0, 0.5, 3.0])
PLANES = np.stack([REAL, -REAL], axis=1)

# Little data makes some of them warn that they did not converge.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    CLASSIFIERS = [
        linear_model.LogisticRegression().fit(X, NAMES),
        linear_model.LogisticRegression().fit(X, Y > 0),
        linear_model.LogisticRegression().fit(X, Y * 1.0),
        linear_model.SGDClassifier(loss="hinge", random_state=0).fit(X, Y),
        linear_model.RidgeClassifier().fit(X, NAMES),
        svm.LinearSVC().fit(X, Y),
        svm.SVC().fit(X, NAMES),
        tree.DecisionTreeClassifier(max_depth=3).fit(X, NAMES),
        ensemble.RandomForestClassifier(5, random_state=0).fit(X, NAMES),
        ensemble.ExtraTreesClassifier(5, random_state=0).fit(X, Y > 0),
        ensemble.GradientBoostingClassifier(n_estimators=3).fit(X, Y),
        ensemble.HistGradientBoostingClassifier(max_iter=3).fit(X, NAMES),
        ensemble.AdaBoostClassifier(n_estimators=3).fit(X, Y),
        ensemble.BaggingClassifier(n_estimators=3, random_state=0).fit(X, NAMES),
        ensemble.VotingClassifier(
            [("a", linear_model.LogisticRegression()), ("b", tree.DecisionTreeClassifier())], voting="soft"
        ).fit(X, NAMES),
        ensemble.VotingClassifier(
            [("a", linear_model.LogisticRegression()), ("b", tree.DecisionTreeClassifier())]
        ).fit(X, NAMES),
        ensemble.StackingClassifier([("a", tree.DecisionTreeClassifier(max_depth=2))], cv=2).fit(X, NAMES),
        naive_bayes.GaussianNB().fit(X, NAMES),
        naive_bayes.MultinomialNB().fit(X, Y),
        naive_bayes.CategoricalNB().fit((X > 1).astype(int), Y),
        neighbors.KNeighborsClassifier().fit(X, NAMES),
        neural_network.MLPClassifier(2, solver="lbfgs", max_iter=2000, random_state=0).fit(X, NAMES),
        gaussian_process.GaussianProcessClassifier().fit(X[:20], Y[:20]),
        discriminant_analysis.LinearDiscriminantAnalysis().fit(X, NAMES),
        CalibratedClassifierCV(svm.LinearSVC(), cv=2).fit(X, NAMES),
        OneVsRestClassifier(linear_model.LogisticRegression()).fit(X, NAMES),
        LabelPropagation().fit(X, Y),
        DummyClassifier().fit(X, NAMES),
        GridSearchCV(
            make_pipeline(StandardScaler(), ensemble.RandomForestClassifier(4, random_state=0)),
            {"randomforestclassifier__max_depth": [2, 3]},
            cv=2,
        ).fit(X, NAMES),
        make_pipeline(StandardScaler(), make_pipeline(decomposition.PCA(2), svm.SVC())).fit(X, NAMES),
    ]
    REGRESSORS = [
        linear_model.LinearRegression().fit(X, REAL),
        linear_model.LinearRegression().fit(X, PLANES),
        ensemble.RandomForestRegressor(4, random_state=0).fit(X, REAL),
        ensemble.HistGradientBoostingRegressor(max_iter=3).fit(X, REAL),
        svm.SVR().fit(X, REAL),
        neighbors.KNeighborsRegressor().fit(X, PLANES),
        gaussian_process.GaussianProcessRegressor().fit(X[:20], REAL[:20]),
        MultiOutputRegressor(svm.SVR()).fit(X, PLANES),
        TransformedTargetRegressor(linear_model.Ridge(), transformer=StandardScaler()).fit(X, REAL),
        cross_decomposition.PLSRegression(2).fit(X, PLANES),
        cross_decomposition.CCA(1).fit(X, PLANES),
        RFE(linear_model.Ridge()).fit(X, REAL),
        linear_model.RANSACRegressor(random_state=0).fit(X, REAL),
    ]
    CLUSTERERS = [
        cluster.KMeans(3, n_init=1, random_state=0).fit(X),
        cluster.MiniBatchKMeans(3, n_init=1, random_state=0).fit(X),
        cluster.Birch(n_clusters=3).fit(X),
        cluster.MeanShift().fit(X),
        cluster.AffinityPropagation(random_state=0).fit(X),
    ]
    OUTLIERS = [
        ensemble.IsolationForest(n_estimators=5, random_state=0).fit(X),
        svm.OneClassSVM().fit(X),
        neighbors.LocalOutlierFactor(novelty=True).fit(X),
        EllipticEnvelope(random_state=0).fit(X),
        make_pipeline(StandardScaler(), ensemble.IsolationForest(n_estimators=5, random_state=0)).fit(X),
    ]
    TRANSFORMERS = [
        StandardScaler().fit(X),
        decomposition.PCA(2).fit(X),
        decomposition.TruncatedSVD(2).fit(X),
        PolynomialFeatures(2).fit(X),
        QuantileTransformer(n_quantiles=10).fit(X),
        KBinsDiscretizer(3, encode="onehot", quantile_method="averaged_inverted_cdf").fit(X),
        OneHotEncoder(handle_unknown="ignore").fit(np.round(X)),
        SelectKBest(k=2).fit(X, Y),
        make_pipeline(StandardScaler(), decomposition.PCA(2)).fit(X),
        FeatureUnion([("a", StandardScaler()), ("b", decomposition.PCA(1))]).fit(X),
        cluster.FeatureAgglomeration(2).fit(X),
        decomposition.NMF(2, init="random", random_state=0, max_iter=2000).fit(X),
    ]
    OTHERS = [
        (mixture.GaussianMixture(2, random_state=0).fit(X), ["predict"]),
        (neighbors.KernelDensity().fit(X), ["score_samples"]),
        (MultiOutputClassifier(linear_model.LogisticRegression()).fit(X, TWO), None),
        (ensemble.RandomForestClassifier(4, random_state=0).fit(X, TWO), None),
        (ensemble.RandomForestClassifier(4, random_state=0).fit(X, np.stack([NAMES, NAMES[::-1]], 1)), None),
        (ClassifierChain(linear_model.LogisticRegression()).fit(X, TWO > 0), None),
        (OneVsRestClassifier(linear_model.LogisticRegression()).fit(X, TWO > 0), None),
        (OneVsRestClassifier(svm.LinearSVC()).fit(X, sparse.csr_matrix(TWO > 0)), None),
    ]
KINDS = [
    *((each, ["predict", "predict_proba"]) for each in CLASSIFIERS),
    *((each, ["predict"]) for each in REGRESSORS),
    *((each, ["predict"]) for each in CLUSTERERS),
    *((each, ["predict", "decision_function"]) for each in OUTLIERS),
    *((each, ["transform"]) for each in TRANSFORMERS),
    *OTHERS,
]


def name_of(value: object) -> str | None:
    return None if isinstance(value, list) or value is None else type(value).__name__


def answer_of(estimator: Any, name: str, rows: Any) -> Any:
    """Return the library's own answer that an output is to equal."""
    method, _, number = name.rpartition("_")
    if number.isdigit():
        return getattr(estimator, method)(rows)[int(number)]
    answer = getattr(estimator, name)(rows)
    return answer.toarray() if sparse.issparse(answer) else np.asarray(answer)


def assert_equal(actual: Array, expected: Array) -> None:
    assert actual.shape == expected.shape
    if actual.dtype == object:
        assert [text.decode() for text in actual.reshape(-1)] == [str(item) for item in expected.reshape(-1)]
    elif expected.dtype.kind == "f":
        np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-9)
    else:
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.filterwarnings("error:.*feature names")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
@pytest.mark.parametrize(("estimator", "default"), KINDS, ids=name_of)
def test_answers_are_those_of_the_library(estimator: Any, default: list[str] | None) -> None:
    model = model_from(estimator)
    rows = (X[:7] > 1).astype(float) if isinstance(estimator, naive_bayes.CategoricalNB) else X[:7]
    assert [(spec.name, spec.shape) for spec in model.signature.inputs] == [("input", (-1, 4))]
    answer = model.infer({"input": rows})
    if default is not None:
        assert list(answer) == [name for name in default if hasattr(estimator, name)]
    names = [spec.name for spec in model.signature.all_outputs]
    assert list(answer) == names[: len(answer)]
    for spec in model.signature.all_outputs:
        output = model.infer({"input": rows}, [spec.name])[spec.name]
        assert_equal(output, answer_of(estimator, spec.name, rows))
        assert spec.datatype == Datatype.of(output.dtype)
        assert spec.shape == (-1, *output.shape[1:])
        if spec.name in answer:
            assert_equal(answer[spec.name], answer_of(estimator, spec.name, rows))
    single = model.infer({"input": rows[:1]})
    for name, array in single.items():
        assert_equal(array, np.asarray(answer_of(estimator, name, rows[:1])))


@pytest.mark.parametrize("classes", [Y, Y > 0, NAMES], ids=["numbers", "booleans", "names"])
@pytest.mark.parametrize("kind", ["LogisticRegression", "LogisticRegressionCV"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_scores_of_a_call_are_computed_once(
    kind: str, classes: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    estimator = make_pipeline(StandardScaler(), getattr(linear_model, kind)().fit(X, classes))
    estimator[0].fit(X)
    methods = ("predict", "predict_proba", "decision_function", "predict_log_proba")
    expected = {method: getattr(estimator, method)(X) for method in methods}
    model = model_from(estimator)
    calls = []
    scores = linear_model.LogisticRegression.decision_function

    def counted(self: Any, rows: Array) -> Any:
        calls.append(rows)
        return scores(self, rows)

    monkeypatch.setattr(linear_model.LogisticRegression, "decision_function", counted)
    answer = model.infer({"input": X}, methods)
    assert len(calls) == 1
    for method in methods:
        assert_equal(answer[method], expected[method])
        assert_equal(model.infer({"input": X}, (method, "predict"))[method], expected[method])


@pytest.mark.parametrize("estimator", [*CLASSIFIERS[:9], OTHERS[3][0]], ids=name_of)
def test_classes_name_the_columns(estimator: Any) -> None:
    model = model_from(estimator)
    assert isinstance(model, LabelledModel)
    for name in ("predict_proba", "decision_function"):
        if hasattr(estimator, name) and isinstance(estimator.classes_, np.ndarray):
            columns = np.shape(getattr(estimator, name)(X[:2]))
            expected = tuple(map(str, estimator.classes_.tolist()))
            assert model.labels.get(name) == (expected if len(columns) == 2 else None)


def test_classes_of_each_target_have_names_of_their_own() -> None:
    model = model_from(OTHERS[4][0])
    assert isinstance(model, LabelledModel)
    assert dict(model.labels)["predict_proba_1"] == ("lily", "rose", "øre")
    assert [spec.name for spec in model.signature.outputs] == [
        "predict",
        "predict_proba_0",
        "predict_proba_1",
    ]


def test_what_a_model_answered_when_it_was_loaded_is_its_example() -> None:
    model = model_from(CLASSIFIERS[18])
    assert isinstance(model, ExemplaryModel)
    assert {name: array.shape for name, array in model.example.items()} == {"input": (1, 4)}
    model.infer(model.example)


def test_neighbours_are_distances_and_indices() -> None:
    estimator = neighbors.NearestNeighbors(n_neighbors=2).fit(X)
    answer = model_from(estimator).infer({"input": X[:3]})
    distances, indices = estimator.kneighbors(X[:3])
    np.testing.assert_allclose(answer["kneighbors_distances"], distances)
    np.testing.assert_array_equal(answer["kneighbors_indices"], indices)


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (cluster.DBSCAN().fit(X), "holds a DBSCAN, not an estimator that has a method to answer calls"),
        (LabelEncoder().fit(NAMES), "LabelEncoder takes labels"),
        (linear_model.Ridge(), "Ridge does not say how many numbers it takes"),
    ],
    ids=name_of,
)
def test_what_cannot_be_called_says_why(estimator: Any, message: str) -> None:
    with pytest.raises(LoadError, match=rf"model\.pkl.*{message}"):
        model_from(estimator)


def test_an_answer_of_a_sparse_matrix_is_bounded() -> None:
    wide = OneHotEncoder(handle_unknown="ignore").fit(np.arange(70_000.0).reshape(-1, 1))
    with pytest.raises(LoadError, match="its transform gives 70000 columns"):
        model_from(wide)
    model = model_from(OneHotEncoder(handle_unknown="ignore").fit(np.arange(60_000.0).reshape(-1, 1)))
    with pytest.raises(InputError, match="300 rows of 60000 numbers; send at most 279 rows"):
        model.infer({"input": np.zeros((300, 1))})


@pytest.mark.parametrize(
    ("estimator", "is_batched"),
    [
        (CLASSIFIERS[8], True),
        (TRANSFORMERS[1], True),
        (OUTLIERS[2], True),
        (TRANSFORMERS[-1], False),
    ],
    ids=name_of,
)
def test_calls_run_together_where_rows_are_independent(estimator: Any, is_batched: bool) -> None:
    model = model_from(estimator)
    assert isinstance(model, BatchedModel)
    assert model.pays_to_batch == is_batched


@pytest.mark.parametrize(
    ("estimator", "rows", "message"),
    [
        (PowerTransformer("box-cox").fit(X), -X[:1], "input 'input': The Box-Cox transformation can only"),
        (CLASSIFIERS[0], np.full((1, 4), np.nan), r"input 'input': Input X contains NaN\.$"),
        (OneHotEncoder().fit(np.round(X)), np.full((1, 4), 99.0), "input 'input': Found unknown categories"),
    ],
    ids=name_of,
)
def test_rows_that_the_library_refuses_are_the_callers_fault(
    estimator: Any, rows: Array, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        model_from(estimator).infer({"input": rows})


def test_missing_numbers_are_answered_where_the_model_takes_them() -> None:
    estimator = CLASSIFIERS[11]
    rows = X[:2].copy()
    rows[0, 1] = np.nan
    answer = model_from(estimator).infer({"input": rows})
    np.testing.assert_allclose(answer["predict_proba"], estimator.predict_proba(rows))


@pytest.mark.parametrize("threads", [1, 2])
def test_every_estimator_inside_computes_with_the_threads_that_it_is_given(threads: int) -> None:
    forest = ensemble.RandomForestClassifier(2, n_jobs=-1, random_state=0)
    search = GridSearchCV(make_pipeline(StandardScaler(), forest), {}, cv=2, n_jobs=1).fit(X, Y)
    voting = ensemble.VotingClassifier([("search", search)], n_jobs=8).fit(X, Y)
    model = model_from(voting, threads)
    inner: Any = model._prepared.program._methods["predict"].__self__  # type: ignore[attr-defined]
    assert inner.n_jobs == threads
    assert inner.estimators_[0].best_estimator_[-1].n_jobs == threads
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.infer({"input": X[:1]})
