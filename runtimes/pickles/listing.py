"""The rule by which the allow-list of known pickles is made from the libraries that are installed.

`python -m runtimes.pickles.listing` adds the names of the installed releases to `known_names.txt`; those of
other releases stay. Run it under each release whose pickles are to be read, and review what it adds by name:
nothing may be on the list that calls, opens, imports or evaluates what it is given.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType

from runtimes.pickles.known import Use

_FILE = Path(__file__).with_name("known_names.txt")
_HEADER = (
    "# What a known pickle may import, and what it may do with it: see known.py. Written by listing.py.\n"
)

# Values of Python itself. `str`, `bytes` and `getattr` are no VALUE: a model that calls one of them with a
# caller's rows would make a path, or find a method by name.
_PYTHON = {
    Use.CALL: """
        _codecs.encode builtins.bytearray builtins.bytes builtins.complex builtins.frozenset builtins.list
        builtins.range builtins.set builtins.slice builtins.dict builtins.tuple
        collections.OrderedDict collections.defaultdict collections.Counter collections.deque
        datetime.date datetime.datetime datetime.time datetime.timedelta datetime.timezone
        decimal.Decimal fractions.Fraction uuid.UUID
    """,
    Use.CLASS: "builtins.str",
    Use.VALUE: "builtins.bool builtins.float builtins.int builtins.object",
    # Only of the function that HistGradientBoosting checks numbers with: see calls.py.
    Use.REBUILD: "copyreg._reconstructor copyreg.__newobj__ functools.partial",
}
# Reconstructors of numpy. Those of arrays and of their types are never called: see arrays.py.
_NUMPY = {
    Use.CALL: "numpy.dtype",
    Use.CLASS: """
        numpy.ndarray numpy.ma.MaskedArray numpy.ma.core.MaskedArray numpy.random.bit_generator.SeedSequence
    """,
    Use.REBUILD: """
        numpy.core.multiarray._reconstruct numpy._core.multiarray._reconstruct
        numpy.core.multiarray.scalar numpy._core.multiarray.scalar
        numpy.core.numeric._frombuffer numpy._core.numeric._frombuffer
        numpy.core._ufunc_reconstruct numpy._core._ufunc_reconstruct
        numpy.ma.core._mareconstruct
        numpy.random._pickle.__generator_ctor numpy.random._pickle.__randomstate_ctor
        numpy.random._pickle.__bit_generator_ctor numpy.random.bit_generator.__pyx_unpickle_SeedSequence
    """,
}
_NUMBERS = """
    bool bool_ byte ubyte short ushort intc uintc int_ uint long ulong longlong ulonglong half single double
    longdouble float16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64 intp uintp
    float_ object_
"""
_BIT_GENERATORS = "_mt19937.MT19937 _pcg64.PCG64 _pcg64.PCG64DXSM _philox.Philox _sfc64.SFC64"
_SPARSE = ("csr", "csc", "coo", "bsr", "dia", "lil")

# Classes of scikit-learn that estimators hold: whole modules of them, and single ones.
_SKLEARN_MODULES = """
    sklearn._loss.link sklearn._loss.loss sklearn.gaussian_process.kernels sklearn.ensemble._gb_losses
    sklearn.linear_model._glm.link sklearn._loss.glm_distribution
    sklearn.ensemble._hist_gradient_boosting.loss
"""
_SKLEARN_CLASSES = """
    sklearn.calibration._CalibratedClassifier sklearn.calibration._SigmoidCalibration
    sklearn.calibration._TemperatureScaling
    sklearn.cluster._birch._CFNode sklearn.cluster._birch._CFSubcluster
    sklearn.cluster._bisect_k_means._BisectingTree
    sklearn.compose._column_transformer.make_column_selector
    sklearn.ensemble._hist_gradient_boosting.binning._BinMapper
    sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor
    sklearn.gaussian_process._gpc._BinaryGaussianProcessClassifierLaplace
    sklearn.metrics._scorer._CurveScorer sklearn.metrics._scorer._MultimetricScorer
    sklearn.metrics._scorer._PassthroughScorer sklearn.metrics._scorer._PredictScorer
    sklearn.metrics._scorer._ProbaScorer sklearn.metrics._scorer._Scorer
    sklearn.metrics._scorer._ThresholdScorer
    sklearn.multiclass._ConstantPredictor
    sklearn.neural_network._stochastic_optimizers.AdamOptimizer
    sklearn.neural_network._stochastic_optimizers.SGDOptimizer
    sklearn.utils._bunch.Bunch sklearn.utils.Bunch
    sklearn.utils._encode._nandict sklearn.utils._encode.MissingValues
    sklearn.utils._metadata_requests.MetadataRequest sklearn.utils._metadata_requests.MethodMetadataRequest
"""
_SKLEARN_CALLS = """
    sklearn.impute._iterative._ImputerTriplet sklearn.tree._tree.Tree sklearn.utils._encode.MissingValues
    sklearn.linear_model._sgd_fast.Hinge sklearn.linear_model._sgd_fast.SquaredHinge
    sklearn.linear_model._sgd_fast.Log sklearn.linear_model._sgd_fast.Huber
    sklearn.linear_model._sgd_fast.SquaredLoss sklearn.linear_model._sgd_fast.ModifiedHuber
    sklearn.linear_model._sgd_fast.EpsilonInsensitive
    sklearn.linear_model._sgd_fast.SquaredEpsilonInsensitive
"""
# Functions that estimators are given or choose: each computes numbers from arrays alone.
_SKLEARN_FUNCTIONS = """
    sklearn.cluster._kmeans._kmeans_single_lloyd sklearn.cluster._kmeans._kmeans_single_elkan
    sklearn.cluster._kmeans.lloyd_iter_chunked_dense sklearn.cluster._kmeans.elkan_iter_chunked_dense
    sklearn.feature_selection._univariate_selection.chi2
    sklearn.feature_selection._univariate_selection.f_classif
    sklearn.feature_selection._univariate_selection.f_oneway
    sklearn.feature_selection._univariate_selection.f_regression
    sklearn.feature_selection._univariate_selection.r_regression
    sklearn.feature_selection._mutual_info.mutual_info_classif
    sklearn.feature_selection._mutual_info.mutual_info_regression
    sklearn.utils.validation.check_array
"""
_C_MODULES = "sklearn.metrics._dist_metrics sklearn.neighbors._kd_tree sklearn.neighbors._ball_tree"
_C_CLASSES = ("KDTree", "BallTree")
_NUMPY_FUNCTIONS = "numpy.mean numpy.median numpy.max numpy.min numpy.sum"

_SCIPY_FUNCTIONS = "scipy._lib.array_api_compat.numpy._aliases.asarray"

_BOOSTERS = {
    Use.STATE: """
        xgboost.core.Booster xgboost.sklearn.XGBClassifier xgboost.sklearn.XGBRegressor
        xgboost.sklearn.XGBRanker xgboost.sklearn.XGBRFClassifier xgboost.sklearn.XGBRFRegressor
        xgboost.sklearn.XGBModel
        lightgbm.basic.Booster lightgbm.sklearn.LGBMClassifier lightgbm.sklearn.LGBMRegressor
        lightgbm.sklearn.LGBMRanker lightgbm.sklearn.LGBMModel lightgbm.compat._LGBMLabelEncoder
        catboost.core.CatBoost catboost.core.CatBoostClassifier catboost.core.CatBoostRegressor
        catboost.core.CatBoostRanker
    """,
}
_PANDAS = {
    Use.CLASS: """
        pandas.Index pandas.RangeIndex pandas.arrays.StringArray
        pandas.core.indexes.base.Index pandas.core.indexes.range.RangeIndex
        pandas.core.arrays.string_.StringArray
    """,
    Use.CALL: "pandas.StringDtype pandas.core.arrays.string_.StringDtype",
    Use.REBUILD: "pandas.core.indexes.base._new_Index pandas._libs.arrays.__pyx_unpickle_NDArrayBacked",
}


def rule() -> dict[str, Use]:
    """Return the names that the rule gives for the installed libraries."""
    names: dict[str, Use] = {}
    for group in (_PYTHON, _NUMPY, _BOOSTERS, _PANDAS):
        for use, text in group.items():
            names |= dict.fromkeys(text.split(), use)
    names |= dict.fromkeys(_numpy_values(), Use.VALUE)
    names |= dict.fromkeys((f"numpy.random.{name}" for name in _BIT_GENERATORS.split()), Use.CLASS)
    names["joblib.numpy_pickle.NumpyArrayWrapper"] = Use.STATE
    names |= dict.fromkeys(_scipy_classes(), Use.STATE)
    names |= _sklearn()
    return names


def _numpy_values() -> Iterator[str]:
    import numpy as np
    from scipy import special

    yield from _NUMPY_FUNCTIONS.split()
    yield from _SCIPY_FUNCTIONS.split()
    yield from (f"numpy.{name}" for name in _NUMBERS.split() if hasattr(np, name))
    for name, value in vars(np).items():
        if isinstance(value, np.ufunc) and name == value.__name__ and name != "frompyfunc":
            yield from (f"{module}.{name}" for module in _NUMPY_UFUNCS)
    for name, value in vars(special).items():
        if isinstance(value, np.ufunc) and name == value.__name__:
            yield from (f"scipy.special.{module}.{name}" for module in ("_ufuncs", "_special_ufuncs"))


_NUMPY_UFUNCS = ("numpy", "numpy.core._multiarray_umath", "numpy._core._multiarray_umath")


def _scipy_classes() -> Iterator[str]:
    for name in _SPARSE:
        yield from (f"scipy.sparse._{name}.{name}_{kind}" for kind in ("matrix", "array"))
        yield f"scipy.sparse.{name}.{name}_matrix"
    yield "scipy.interpolate._bsplines.BSpline"
    yield "scipy.interpolate._interpolate.interp1d"


def _sklearn() -> dict[str, Use]:
    from sklearn.metrics import _scorer, pairwise
    from sklearn.utils import all_estimators

    states = {f"{class_.__module__}.{class_.__qualname__}" for _, class_ in all_estimators()}
    states |= set(_existing(_SKLEARN_CLASSES.split()))
    for module in _modules(_SKLEARN_MODULES.split()):
        states |= {
            f"{module.__name__}.{name}"
            for name, value in vars(module).items()
            if inspect.isclass(value) and value.__module__ == module.__name__ and not issubclass(value, tuple)
        }
    splits = import_module("sklearn.model_selection._split")
    states |= {
        f"{splits.__name__}.{name}"
        for name, value in vars(splits).items()
        if inspect.isclass(value) and value.__module__ == splits.__name__ and hasattr(value, "split")
    }
    functions = {scorer._score_func for scorer in _scorer._SCORERS.values()}
    functions |= set(pairwise.PAIRWISE_DISTANCE_FUNCTIONS.values())
    functions |= set(pairwise.PAIRWISE_KERNEL_FUNCTIONS.values())
    values = {f"{value.__module__}.{value.__qualname__}" for value in functions if inspect.isfunction(value)}
    values |= set(_existing(_SKLEARN_FUNCTIONS.split()))
    names = dict.fromkeys(states, Use.STATE) | dict.fromkeys(values, Use.VALUE)
    names |= dict.fromkeys(_existing(_SKLEARN_CALLS.split()), Use.CALL)
    return names | dict(_sklearn_c())


def _sklearn_c() -> Iterator[tuple[str, Use]]:
    """Yield the classes written in C that hold distances, trees of neighbours and losses."""
    for name in (
        "sklearn.metrics._dist_metrics",
        "sklearn.neighbors._kd_tree",
        "sklearn.neighbors._ball_tree",
    ):
        for module in _modules([name]):
            for attribute, value in vars(module).items():
                is_concrete = attribute.startswith(_C_CLASSES) or "Distance" in attribute[1:]
                is_own = inspect.isclass(value) and value.__module__ == name
                if is_own and is_concrete and "PyFunc" not in attribute:
                    yield f"{name}.{attribute}", Use.CLASS
            yield f"{name}.newObj", Use.REBUILD
    for module in _modules(["sklearn._loss._loss"]):
        for attribute, value in vars(module).items():
            if inspect.isclass(value) and attribute.startswith("Cy"):
                yield f"{module.__name__}.{attribute}", Use.CALL
                yield f"{module.__name__}.__pyx_unpickle_{attribute}", Use.REBUILD


def _modules(names: Iterable[str]) -> Iterator[ModuleType]:
    for name in names:
        with suppress(ImportError):
            yield import_module(name)


def _existing(names: Iterable[str]) -> Iterator[str]:
    for name in names:
        module, _, attribute = name.rpartition(".")
        with suppress(ImportError):
            if hasattr(import_module(module), attribute):
                yield name


def main() -> None:
    """Add the names of the installed libraries to the list."""
    names: dict[str, str] = {}
    if _FILE.exists():
        for line in _FILE.read_text("utf-8").splitlines():
            use, _, name = line.partition(" ")
            if not line.startswith("#"):
                names[name] = use
    names |= {name: use.value for name, use in rule().items()}
    lines = [f"{use} {name}\n" for name, use in sorted(names.items())]
    _FILE.write_text(_HEADER + "".join(lines), "utf-8")
    sys.stdout.write(f"{len(lines)} names\n")


if __name__ == "__main__":
    main()
