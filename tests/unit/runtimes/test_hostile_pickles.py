"""Pickles of listed names alone that have code in C leave its bounds are refused before they are used."""

from __future__ import annotations

import copyreg
import functools
import pickle
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from sklearn.cluster import Birch, KMeans
from sklearn.ensemble import GradientBoostingRegressor, HistGradientBoostingClassifier
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils.validation import check_array

from runtimes.base import Resources
from runtimes.errors import LoadError
from runtimes.pickles import stream
from runtimes.pickles.dry_run import dry_run
from runtimes.pickles.refusals import Refused
from runtimes.pickles.unpickler import load
from runtimes.pickles.whole import check_whole
from runtimes.sklearn.nested import limit_threads
from runtimes.sklearn.releases import changed_meaning
from runtimes.sklearn.runtime import SklearnRuntime

ROWS = np.abs(np.random.default_rng(0).normal(size=(40, 3)))
CLASSES = np.arange(40) % 3


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def one_hot(**attributes: Any) -> Any:
    encoder = OneHotEncoder(min_frequency=2, handle_unknown="ignore")
    encoder.fit(np.array([[0.0], [0], [1], [1], [2], [3]]))
    return changed(encoder, **attributes)


def changed(model: Any, **attributes: Any) -> Any:
    for name, value in attributes.items():
        setattr(model, name, value)
    return model


def vectorizer(**attributes: Any) -> Any:
    return changed(CountVectorizer().fit(["some words"]), **attributes)


def neighbours(**attributes: Any) -> Any:
    return changed(KNeighborsClassifier(algorithm="brute").fit(ROWS, CLASSES), **attributes)


def lists(rows: list[int], values: list[float]) -> Any:
    matrix = sparse.lil_matrix((40, 3))
    matrix.rows[0], matrix.data[0] = rows, values
    return matrix


def stages(stage: Any) -> Any:
    model = GradientBoostingRegressor(n_estimators=2).fit(ROWS, CLASSES)
    model.estimators_[1, 0] = stage(model.estimators_[1, 0])
    return model


def categories(**attributes: Any) -> Any:
    rows = np.column_stack([ROWS, CLASSES % 2])
    model = HistGradientBoostingClassifier(max_iter=2, categorical_features=[3], min_samples_leaf=2)
    changed(model.fit(rows, CLASSES)._bin_mapper, **attributes)
    return model


def arrays_within(depth: int) -> Any:
    array = np.empty(1, object)
    for _ in range(depth):
        outer = np.empty(1, object)
        outer[0] = array
        array = outer
    return array


HOSTILE: dict[str, tuple[Callable[[], Any], str]] = {
    "columns of an encoder": (lambda: one_hot(_n_features_outs=[1]), "other categories than columns"),
    "rare categories": (
        lambda: one_hot(_default_to_infrequent_mappings=[np.array([0, 9, 1, 2])]),
        "other categories than columns",
    ),
    "a dropped category": (lambda: one_hot(_drop_idx_after_grouping=[9]), "drops a category"),
    "an order of categories": (lambda: one_hot(categories_=[np.array([3.0, 2, 1, 0])]), "out of order"),
    "a word": (lambda: vectorizer(vocabulary_={"some": 0, "words": 5_000_000}), "a word outside of it"),
    "a word before": (lambda: vectorizer(vocabulary_={"some": 0, "words": -5}), "a word outside of it"),
    "names of files": (lambda: vectorizer(input=np.array(["content"], object)), "takes names of files"),
    "labels": (lambda: neighbours(_y=np.full(40, 1e12)), "a label that is no class"),
    "samples": (lambda: neighbours(n_samples_fit_=10**9), "other samples than it says"),
    "lists of columns": (lambda: neighbours(_fit_X=lists([9], [1.0])), "a column outside of it"),
    "lists of values": (lambda: neighbours(_fit_X=lists([1], [1.0] * 9)), "a column outside of it"),
    "a sparse machine": (
        lambda: changed(model := SVC().fit(sparse.csr_matrix(ROWS), CLASSES), _dual_coef_=empty(model)),
        "other factors than vectors",
    ),
    "a kernel": (
        lambda: changed(model := SVC(kernel=rbf_kernel).fit(ROWS, CLASSES), support_=model.support_ + 99),
        "a vector outside of it",
    ),
    "a frozen stage": (lambda: stages(FrozenEstimator), "a stage of a model is no decision tree"),
    "categories": (lambda: categories(is_categorical_=np.zeros(0, np.uint8)), "other features"),
    "numbers": (lambda: categories(is_categorical_=np.zeros(4, np.uint8)), "a category of a number"),
    "centres": (
        lambda: changed(KMeans(2, n_init=1).fit(ROWS), cluster_centers_=ROWS[:0]),
        "a model has no centres",
    ),
    "norms": (lambda: changed(Birch().fit(ROWS), _subcluster_norms=ROWS[:1, 0]), "other norms"),
    "an argument out": (
        lambda: FunctionTransformer(np.log, kw_args={"out": ROWS.copy()}),
        "the argument 'out' of a function",
    ),
    "an argument where": (
        lambda: FunctionTransformer(np.log, kw_args={"where": False}),
        "the argument 'where' of a function",
    ),
    "truth": (lambda: np.frombuffer(b"\xff", bool).copy(), "neither 0 nor 1"),
    "arrays within arrays": (lambda: arrays_within(3), "holds others too deep"),
    "a function of a function": (lambda: functools.partial(np.log), "a function of another function"),
    "a check with arrays": (lambda: functools.partial(check_array, out=ROWS), "has an unknown form"),
}


def empty(model: Any) -> Any:
    return sparse.csr_matrix(model._dual_coef_.shape)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", HOSTILE)
def test_what_code_in_c_would_follow_is_refused(tmp_path: Path, name: str) -> None:
    make, words = HOSTILE[name]
    with pytest.raises(Refused, match=words):
        load(written(tmp_path / "model", pickle.dumps(make())))


class Rebuilt:
    """An array that is made of its bytes at once, and then gets a state as another array would."""

    def __reduce__(self) -> tuple[Any, ...]:
        from numpy._core.numeric import _frombuffer  # type: ignore[attr-defined]

        return _frombuffer, (bytearray(8), np.dtype("i8"), (1,), "C"), {"a": 1}


class Paired:
    """An estimator whose state is pairs in a pipeline, of which the class would make attributes."""

    def __reduce__(self) -> tuple[Any, ...]:
        steps = Pipeline([("a", ("predict", np.log))])
        steps.__dict__["pop"] = np.add
        return copyreg.__newobj__, (LogisticRegression,), steps  # type: ignore[attr-defined]


UUID = b"\x8c\x04uuid\x8c\x04UUID\x93\x8c\x20" + b"0" * 32 + b"\x85R}\x8c\x03intNsb."


def test_what_others_use_already_gets_no_state(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="sets attributes of a ndarray"):
        load(written(tmp_path / "model", pickle.dumps(Rebuilt())))
    with pytest.raises(Refused, match="sets attributes of a UUID"):
        load(written(tmp_path / "model", b"\x80\x04" + UUID))
    with pytest.raises(Refused, match="a state that is no dict"):
        load(written(tmp_path / "model", pickle.dumps(Paired(), 1)))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x8c\x09fractions\x8c\x08Fraction\x93\x8c\x0b1e300000000\x85R.", "no library calls it with"),
        (b"\x8c\x08builtins\x8c\x05slice\x93\x94N\x85Rq\x01h\x00h\x01\x85R.", "no library calls it with"),
        (b"\x8c\x0bcollections\x8c\x0bdefaultdict\x93\x94)RK\x00h\x00)Rs.", "holds another"),
        (b"}(" + b"(" * 5 + b"N" * 2000 + b"t" * 5 + b"K\x01u.", "is the key of a dict"),
    ],
)
def test_what_is_freed_or_hashed_in_c_without_a_bound_is_refused(
    tmp_path: Path, data: bytes, words: str
) -> None:
    with pytest.raises(Refused, match=words):
        load(written(tmp_path / "model", b"\x80\x04" + data))


def test_operations_count_as_the_memory_that_they_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "_FLOOR", 1_000_000)
    lists_of_nothing = zlib.compress(b"\x80\x04(" + b"]" * 100_000 + b"l.")
    with pytest.raises(LoadError, match="a hundred times as large"):
        load(written(tmp_path / "model", lists_of_nothing))


def test_a_histogram_with_categories_is_known(tmp_path: Path) -> None:
    """Its check of the other columns is a partial function of one function of scikit-learn's."""
    rows = np.column_stack([ROWS, CLASSES % 2])
    model = categories()
    path = written(tmp_path / "model", pickle.dumps(model))
    assert dry_run(path).refusal == ""
    np.testing.assert_array_equal(load(path).predict_proba(rows), model.predict_proba(rows))


def test_a_model_that_takes_too_many_numbers_is_refused(tmp_path: Path) -> None:
    model = changed(StandardScaler().fit(ROWS), n_features_in_=10**12)
    with pytest.raises(LoadError, match="takes 1000000000000 numbers"):
        SklearnRuntime().load(written(tmp_path / "model", pickle.dumps(model)), Resources())


def test_threads_are_limited_however_they_are_written() -> None:
    model = changed(KMeans(2, n_init=1).fit(ROWS), _n_threads=64)
    limit_threads(model, 2)
    assert model._n_threads == 2
    neighbour = neighbours(n_jobs=np.int64(64))
    limit_threads(neighbour, 2)
    assert neighbour.n_jobs == 2


def counted(model: Any) -> Any:
    """Return a tree with counts in its leaves, as scikit-learn 1.3 had them."""
    model.tree_.value[:] *= 40
    return model


OLD: dict[str, Callable[[], Any]] = {
    "DecisionTreeClassifier": lambda: counted(DecisionTreeClassifier().fit(ROWS, CLASSES)),
    "LogisticRegression": lambda: changed(LogisticRegression().fit(ROWS, CLASSES), multi_class="ovr"),
    "TfidfVectorizer": lambda: without_weights(TfidfVectorizer().fit(["some words", "words"])),
}


def without_weights(model: Any) -> Any:
    model._tfidf._idf_diag = sparse.diags([model._tfidf.__dict__.pop("idf_")], [0])
    return model


@pytest.mark.parametrize("name", OLD)
def test_models_that_would_answer_otherwise_than_their_release_are_refused(tmp_path: Path, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = OLD[name]()
    assert changed_meaning(model) == name
    path = written(tmp_path / "model", pickle.dumps(model))
    with pytest.raises(LoadError, match=f"would read its {name} otherwise and give wrong answers; install"):
        SklearnRuntime().load(path, Resources())


def test_models_of_this_release_mean_what_they_say() -> None:
    for model in (DecisionTreeClassifier(), LogisticRegression(), KNeighborsClassifier()):
        assert changed_meaning(model.fit(ROWS, CLASSES)) == ""
    assert changed_meaning(NearestNeighbors().fit(ROWS)) == ""


def test_damaged_boosters_are_refused_before_their_engine_reads_them(tmp_path: Path) -> None:
    lightgbm = pytest.importorskip("lightgbm")
    xgboost = pytest.importorskip("xgboost")
    models = {
        b"num_nodes": xgboost.XGBClassifier(n_estimators=3).fit(ROWS, CLASSES),
        b"split_feature=": lightgbm.LGBMClassifier(n_estimators=3, min_child_samples=3, verbose=-1).fit(
            ROWS, CLASSES
        ),
    }
    for place, model in models.items():
        data = pickle.dumps(model)
        np.testing.assert_array_equal(
            load(written(tmp_path / "model", data)).predict(ROWS), model.predict(ROWS)
        )
        hurt = data.replace(place, b"x" + place[1:])
        assert hurt != data
        with pytest.raises(Refused, match="has a damaged model"):
            load(written(tmp_path / "model", hurt))


def test_a_tree_that_counts_more_nodes_than_it_has_is_refused_before_its_state_is_read() -> None:
    model = DecisionTreeClassifier(max_depth=1, random_state=0).fit([[0.0], [1.0]], [0, 1])
    state = model.tree_.__getstate__()
    model.tree_.__setstate__({**state, "node_count": state["node_count"] + 10_000_000})
    with pytest.raises(Refused, match="nodes in the place of 3"):
        check_whole(model)
