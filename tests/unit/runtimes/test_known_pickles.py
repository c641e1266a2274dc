"""Known pickles are loaded without running what is in them, and nothing else is loaded."""

from __future__ import annotations

import bdb
import builtins
import copyreg
import ctypes
import functools
import io
import operator
import os
import pickle
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import cloudpickle
import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC
from sklearn.utils import all_estimators

from runtimes.errors import LoadError
from runtimes.pickles.dry_run import dry_run
from runtimes.pickles.known import is_known, known_names
from runtimes.pickles.refusals import NotListed, Refused
from runtimes.pickles.stream import Budget, Stream
from runtimes.pickles.unpickler import Unpickler, load

ROWS = np.abs(np.random.default_rng(0).normal(size=(40, 3)))
CLASSES = np.arange(40) % 3


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


class Call:
    """An object whose pickle calls something."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


GADGETS: dict[str, Any] = {
    "os.system": Call(os.system, "touch canary"),
    "builtins.eval": Call(eval, "1"),
    "builtins.exec": Call(exec, "1"),
    "builtins.getattr": Call(getattr, os, "system"),
    "builtins.__import__": Call(__import__, "antigravity"),
    "builtins.open": Call(open, "canary", "w"),
    "builtins.map": Call(map, print, [1]),
    "_operator.attrgetter": Call(operator.attrgetter, "system"),
    "_operator.methodcaller": Call(operator.methodcaller, "system", "touch canary"),
    "functools.partial": Call(functools.partial, os.system, "touch canary"),
    "functools.reduce": Call(functools.reduce, max, [1]),
    "types.FunctionType": Call(types.FunctionType, None, {}),
    "types.CodeType": Call(types.CodeType, 0),
    "_pickle.loads": Call(pickle.loads, pickle.dumps(1)),
    "copyreg.add_extension": Call(copyreg.add_extension, "os", "system", 7),
    "ctypes.CDLL": Call(ctypes.CDLL, None),
    "bdb.Bdb": Call(bdb.Bdb),
    "pandas.read_pickle": Call(pd.read_pickle, "canary"),
    "joblib.numpy_pickle.load": Call(joblib.load, "canary"),
    "joblib.memory.Memory": Call(joblib.Memory, "canary"),
    "joblib.parallel.Parallel": Call(joblib.Parallel, 2),
    "numpy.vectorize": Call(np.vectorize, print),
    "numpy.frompyfunc": Call(np.frompyfunc, print, 1, 1),
    "numpy.fromfile": Call(np.fromfile, "canary"),
    "numpy.memmap": Call(np.memmap, "canary"),
}
# Named without being imported here, as some are slow and some are gone from this Python.
_NAMED = """
    posix.system nt.system subprocess.Popen subprocess.check_output numpy.load numpy.loadtxt
    numpy.testing._private.utils.runstring numpy.testing.runstring numpy.f2py.compile
    numpy.f2py.crackfortran.getlincoef pandas.eval pandas.core.computation.eval.eval pandas.read_csv
    pandas.core.frame.DataFrame torch.load torch.hub.load torch.jit.load pip.main pip._internal.main
    runpy.run_path runpy._run_code webbrowser.open ctypes.cdll pickle.loads pickle.Unpickler timeit.timeit
    timeit.main pydoc.pipepager pydoc.locate idlelib.pyshell.ModifiedInterpreter idlelib.run.Executive
    cProfile.run profile.Profile.run trace.Trace.run doctest.debug_script code.InteractiveInterpreter
    codeop.compile_command asyncio.unix_events._UnixSubprocessTransport socket.socket shutil.rmtree
    pathlib.Path tempfile.mkstemp importlib.import_module pkgutil.resolve_name
    multiprocessing.util.spawnv_passfds lib2to3.pgen2.grammar.Grammar.loads logging.config.fileConfig
    dill._dill._create_function cloudpickle.cloudpickle._make_function cloudpickle.cloudpickle.subimport
    sklearn.utils._testing.assert_run_python_script_without_output sklearn.datasets._openml.fetch_openml
    sklearn.datasets._base._pkl_filepath sklearn.datasets.load_files sklearn.utils.parallel.Parallel
    sklearn.utils.parallel.delayed sklearn.model_selection._validation.cross_val_score
    sklearn.metrics._plot.roc_curve.RocCurveDisplay sklearn.externals.joblib.load scipy.io.loadmat
    scipy.io._mio.loadmat scipy.stats._distn_infrastructure.rv_frozen
    scipy.stats._continuous_distns.norm_gen scipy.LowLevelCallable scipy.integrate.quad
    scipy.optimize.minimize xgboost.core.DMatrix xgboost.core._load_lib lightgbm.basic.Dataset
    catboost.core.Pool catboost.core._CatBoostBase catboost.core.train numpy.core._ufunc_reconstruct.x
    builtins.compile builtins.breakpoint builtins.input builtins.vars builtins.type builtins.super
    operator.itemgetter _operator.itemgetter itertools.starmap os.popen os.execv sys.settrace
    sklearn.linear_model._logistic.LogisticRegression.fit __main__.Mine
"""
NAMED = _NAMED.split()


def stated(name: str, protocol: int) -> bytes:
    """Return a pickle that names something and calls it with a text."""
    module, _, attribute = name.rpartition(".")
    if protocol < 4:
        return b"\x80\x02c%b\n%b\nX\x01\0\0\0a\x85R." % (module.encode(), attribute.encode())
    short = [b"\x8c%c%b" % (len(part), part.encode()) for part in (module, attribute)]
    return b"\x80\x04" + b"".join(short) + b"\x93\x8c\x01a\x85R."


def refused(path: Path) -> str:
    assert not dry_run(path).is_known
    with pytest.raises(Refused) as caught:
        load(path)
    return str(caught.value)


@pytest.mark.parametrize("way", [0, 2, 4, "joblib", "zlib", "xz"])
@pytest.mark.parametrize("name", GADGETS)
def test_gadgets_are_refused_by_name_and_nothing_runs(
    tmp_path: Path, name: str, way: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model"
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(ROWS, CLASSES)
    model.note = GADGETS[name]
    try:
        if isinstance(way, int):
            path.write_bytes(pickle.dumps(model, way))
        else:
            joblib.dump(model, path, compress=0 if way == "joblib" else (way, 3))
    except (pickle.PicklingError, TypeError):
        pytest.skip("Python does not pickle it")
    text = refused(path)
    assert "which is not on the list of known names" in text
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", NAMED)
def test_names_that_are_not_on_the_list_are_refused(tmp_path: Path, name: str, protocol: int) -> None:
    assert not is_known(name)
    text = refused(written(tmp_path / "model", stated(name, protocol)))
    assert f"{name}, which is not on the list of known names" in text or protocol == 2


GLOBAL_LIST = b"\x80\x04\x8c\x08builtins\x8c\x05float\x93"
ESTIMATOR = b"\x80\x04\x8c\x1dsklearn.linear_model._logistic\x8c\x12LogisticRegression\x93"
MADE = ESTIMATOR.replace(b"\x1d", b"%c" % len("sklearn.linear_model._logistic"), 1) + b")\x81"
BUNCH = b"\x80\x04\x8c\x14sklearn.utils._bunch\x8c\x05Bunch\x93)\x81"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (GLOBAL_LIST + b"}b.", "sets attributes of the class float"),
        (GLOBAL_LIST + b"N}\x8c\x01a\x8c\x01bs\x86b.", "sets attributes of the class float"),
        (GLOBAL_LIST + b"K\x01\x85R.", "calls the class float"),
        (MADE + b"}\x8c\x07predictK\x01sb.", "hides its method"),
        (MADE + b"}\x8c\x09__class__K\x01sb.", "has the attribute '__class__'"),
        (BUNCH + b"}b}b.", "sets attributes of a Bunch"),
        (MADE + b"K\x01a.", "appends to a LogisticRegression"),
        (MADE + b"K\x01K\x01s.", "sets items of a LogisticRegression"),
        (MADE[:-2] + b"K\x01\x85\x81.", "with arguments"),
        (MADE[:-2] + b")R.", "calls sklearn.linear_model._logistic.LogisticRegression"),
        (MADE[:-2] + b".", "holds the class or function"),
        (b"\x80\x02Pid\n.", "outside of the file"),
        (b"\x80\x02\x82\x07.", "an operation that no library writes"),
        (b"\x80\x04}K\x01\x85\x85\x85K\x01s}\x86.", ""),
        (b"\x80\x04\x8c\x08builtins\x8c\x09bytearray\x93J\xff\xff\xff\x7f\x85R.", "no library calls it with"),
        (
            b"\x80\x04\x8c\x08builtins\x8c\x04list\x93\x8c\x08builtins\x8c\x05range\x93K\x05\x85R\x85R.",
            "no library",
        ),
        (b"\x80\x04\x8c\x05numpy\x8c\x07ndarray\x93)\x81.", "out of turn"),
        (
            b"\x80\x04\x8c\x12numpy.random._mt19937\x8c\x07MT19937\x93)\x81.".replace(b"\x12", b"\x15"),
            "out of turn",
        ),
        (b"\x80\x04N.N.", "something follows"),
        (
            b"\x80\x04\x8c\x17numpy._core._ufunc_reco\x8c\x01x\x93.".replace(b"\x17", b"\x17"),
            "not on the list",
        ),
    ],
)
def test_operations_that_no_library_writes_are_refused(tmp_path: Path, data: bytes, words: str) -> None:
    path = written(tmp_path / "model", data)
    if not words:
        load(path)
        return
    with pytest.raises(Refused, match=words):
        load(path)


def test_deep_keys_and_lengths_that_are_not_there_are_refused(tmp_path: Path) -> None:
    deep = b"\x80\x04}K\x01" + b"\x85" * 100_000 + b"K\x01s."
    with pytest.raises(Refused, match="is the key of a dict"):
        load(written(tmp_path / "deep", deep))
    for code in (b"\x8e", b"\x8d", b"\x96"):
        with pytest.raises((LoadError, EOFError, pickle.UnpicklingError, IndexError, ValueError)):
            load(written(tmp_path / "long", b"\x80\x05" + code + (2**50).to_bytes(8, "little") + b"a."))


def test_what_becomes_far_larger_is_refused(tmp_path: Path) -> None:
    names = b"\x8c\x07_codecs\x8c\x06encode\x93\x94"
    text = b"X" + (2**20).to_bytes(4, "little") + b"a" * 2**20 + b"\x94"
    again = b"h\x00h\x01\x8c\x06latin1\x86R0"
    with pytest.raises(LoadError, match="a hundred times as large"):
        load(written(tmp_path / "bomb", b"\x80\x04" + names + text + again * 1200 + b"."))


FITTED: dict[str, Callable[[], Any]] = {
    "forest": lambda: RandomForestClassifier(5, random_state=0).fit(ROWS, CLASSES),
    "boosting": lambda: GradientBoostingClassifier(n_estimators=3).fit(ROWS, CLASSES),
    "neighbours": lambda: KNeighborsClassifier(algorithm="kd_tree").fit(ROWS, CLASSES),
    "machine": lambda: SVC().fit(ROWS, CLASSES),
    "search": lambda: GridSearchCV(Ridge(), {"alpha": [1, 2]}, cv=2).fit(ROWS, CLASSES),
    "pipeline": lambda: make_pipeline(
        FunctionTransformer(np.log1p),
        ColumnTransformer([("a", StandardScaler(), [0, 2])], remainder="passthrough"),
        LogisticRegression(),
    ).fit(ROWS, CLASSES),
}


@pytest.mark.parametrize("compress", [0, ("zlib", 3), ("gzip", 3), ("bz2", 3), ("xz", 3), ("lzma", 3)])
@pytest.mark.parametrize("kind", FITTED)
def test_joblib_files_of_each_compression_are_loaded(tmp_path: Path, kind: str, compress: Any) -> None:
    model = FITTED[kind]()
    joblib.dump(model, tmp_path / "model", compress=compress)
    assert dry_run(tmp_path / "model").is_known
    np.testing.assert_array_equal(load(tmp_path / "model").predict(ROWS), model.predict(ROWS))


@pytest.mark.parametrize("kind", FITTED)
def test_cloudpickles_without_code_are_loaded_and_others_are_not(tmp_path: Path, kind: str) -> None:
    model = FITTED[kind]()
    path = written(tmp_path / "model", cloudpickle.dumps(model))
    assert dry_run(path).is_known
    np.testing.assert_array_equal(load(path).predict(ROWS), model.predict(ROWS))
    model.function = lambda rows: rows
    assert "cloudpickle.cloudpickle" in refused(written(path, cloudpickle.dumps(model)))


def fitted(class_: Any) -> Any:
    """Fit an estimator with its own parameters; None where it wants others."""
    for arguments in ((ROWS, CLASSES), (ROWS,), (ROWS, ROWS[:, :2]), (["a b", "c d"],), (CLASSES,)):
        try:
            return class_().fit(*arguments)
        except Exception:
            continue
    return None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_every_estimator_of_scikit_learn_is_loaded(tmp_path: Path, protocol: int) -> None:
    count = 0
    for name, class_ in all_estimators():
        model = fitted(class_)
        if model is None:
            continue
        count += 1
        path = written(tmp_path / "model", pickle.dumps(model, protocol))
        assert dry_run(path).refusal == "", name
        again = load(path)
        for method in ("predict", "predict_proba", "decision_function", "transform"):
            try:
                expected = getattr(model, method)(ROWS)
            except Exception:
                continue
            actual = getattr(again, method)(ROWS)
            if hasattr(expected, "toarray"):
                actual, expected = actual.toarray(), expected.toarray()
            np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), 1e-9, 1e-12, err_msg=name)
    assert count > 150


def test_boosters_are_loaded(tmp_path: Path) -> None:
    catboost = pytest.importorskip("catboost")
    lightgbm = pytest.importorskip("lightgbm")
    xgboost = pytest.importorskip("xgboost")
    quiet = {"iterations": 3, "verbose": 0, "allow_writing_files": False}
    models = [
        xgboost.XGBClassifier(n_estimators=3),
        xgboost.XGBRegressor(n_estimators=3),
        lightgbm.LGBMClassifier(n_estimators=3, verbose=-1),
        lightgbm.LGBMRegressor(n_estimators=3, verbose=-1),
        catboost.CatBoostClassifier(**quiet),
        catboost.CatBoostRegressor(**quiet),
    ]
    for model in models:
        model.fit(ROWS, CLASSES)
        for protocol in (0, 2, 5):
            path = written(tmp_path / "model", pickle.dumps(model, protocol))
            assert dry_run(path).refusal == "", type(model).__name__
            np.testing.assert_allclose(load(path).predict(ROWS), model.predict(ROWS))


def changed(model: Any, change: Callable[[Any], None], path: Path) -> Path:
    change(model)
    return written(path, pickle.dumps(model))


def _file_names(model: Any) -> None:
    model.input = "filename"


@pytest.mark.parametrize("field", ["left_child", "feature"])
def test_a_forest_with_a_node_outside_of_it_is_refused(tmp_path: Path, field: str) -> None:
    data = pickle.dumps(RandomForestClassifier(1, random_state=0).fit(ROWS, CLASSES))

    class Changed(Unpickler):
        """Changes the nodes before they are taken over, as another file would have them."""

        def load_build(self) -> None:
            state = self.stack[-1]
            if isinstance(state, dict) and "nodes" in state:
                state["nodes"][field][0] = 1_000_000
            super().load_build()

        dispatch: ClassVar[dict[int, Any]] = {**Unpickler.dispatch, pickle.BUILD[0]: load_build}

    with pytest.raises(Refused, match="a decision tree"):
        Changed(Stream(io.BytesIO(data), Budget(len(data))), Budget(len(data))).load()


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("forest", lambda model: setattr(model, "n_features_in_", 2), "more features than its model"),
        ("boosting", lambda model: setattr(model, "estimators_", model.estimators_[:, :2]), "other stages"),
        ("boosting", lambda model: model.__delattr__("init_"), "is no whole one"),
        (
            "neighbours",
            lambda model: setattr(model, "_fit_X", ROWS[:, :2].copy()),
            "samples of other features",
        ),
        ("neighbours", lambda model: setattr(model, "_y", model._y + 7), "a label that is no class"),
        (
            "machine",
            lambda model: setattr(model, "_n_support", model._n_support + 9),
            "other classes than vectors",
        ),
        ("machine", lambda model: setattr(model, "_dual_coef_", model._dual_coef_[:1]), "other factors"),
        (
            "pipeline",
            lambda model: setattr(model, "memory", np.ndarray),
            "is the class or function numpy.ndarray",
        ),
    ],
)
def test_states_that_code_in_c_would_believe_are_refused(
    tmp_path: Path, kind: str, change: Callable[[Any], None], words: str
) -> None:
    with pytest.raises(Refused, match=words):
        load(changed(FITTED[kind](), change, tmp_path / "model"))


def test_text_is_not_taken_for_names_of_files(tmp_path: Path) -> None:
    model = CountVectorizer().fit(["a text of words"])
    assert load(written(tmp_path / "model", pickle.dumps(model))).transform(["words"]).sum() == 1
    with pytest.raises(Refused, match="takes names of files"):
        load(changed(model, _file_names, tmp_path / "model"))


def test_nothing_on_the_list_calls_opens_imports_or_evaluates() -> None:
    words = {
        "compile", "delayed", "eval", "exec", "fetch", "getattr", "import", "load", "loads", "memmap",
        "memory", "open", "parallel", "popen", "read", "save", "system", "partial", "apply", "map",
    }  # fmt: skip
    for name in known_names():
        if name.startswith("scipy.special."):
            continue  # functions of numbers alone, such as eval_legendre
        if name == "functools.partial":
            continue  # of one function of numbers alone, see the test below
        last = name.rpartition(".")[2].lower().strip("_")
        assert not set(last.split("_")) & words, name
        assert getattr(builtins, last, None) not in (eval, exec, open, getattr, vars, type), name


def test_an_unlisted_name_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotListed) as caught:
        load(written(tmp_path / "model", pickle.dumps(os.system)))
    assert caught.value.name == f"{os.system.__module__}.system"


def test_losses_that_earlier_releases_misnamed_are_found(tmp_path: Path) -> None:
    """scikit-learn 1.4 to 1.8 wrote them as of a module `_loss`, which Python does not find."""
    model = FITTED["boosting"]()
    data = pickle.dumps(model, 2).replace(b"csklearn._loss._loss\n", b"c_loss\n")
    assert b"c_loss\n" in data
    np.testing.assert_array_equal(load(written(tmp_path / "model", data)).predict(ROWS), model.predict(ROWS))
