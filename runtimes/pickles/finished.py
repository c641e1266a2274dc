"""What is checked of finished objects, because code in C believes it or because it reads files.

Most of scikit-learn computes with numpy, which checks shapes itself. Here is what does not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from runtimes.pickles import encoders, neighbors, trees
from runtimes.pickles.refusals import Refused

_CENTERS = ("centroids_", "cluster_centers_", "subcluster_centers_")
_SVM_CLASSES = ("c_svc", "nu_svc")


def check_finished(made: Any) -> None:
    """Check an object whose state, and that of all it holds, is known. Raises Refused."""
    class_ = type(made)
    module, name = class_.__module__, class_.__name__
    if module.startswith("scipy.sparse"):
        _check_sparse(made)
    elif name == "BSpline" and module.startswith("scipy."):
        _check_spline(made)
    elif module.startswith("sklearn.") and hasattr(made, "__dict__"):
        try:
            for check in _checks(vars(made), module, name):
                check(made)
        except (ArithmeticError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise Refused(f"a {name} is no whole one: {error!r}") from error


def _checks(values: dict[str, Any], module: str, name: str) -> list[Callable[[Any], None]]:
    """Return the checks for an estimator of scikit-learn by its attributes."""
    checks: list[Callable[[Any], None]] = [_check_arguments]
    if module.startswith("sklearn.tree.") and "tree_" in values:
        checks.append(trees.check_estimator)
    if module.startswith("sklearn.ensemble.") and "estimators_" in values:
        checks += _ensemble_checks(module, name)
    if "_predictors" in values:
        checks.append(trees.check_histogram)
    if "_fit_X" in values:
        checks.append(neighbors.check_neighbors)
    if "support_vectors_" in values:
        checks.append(_check_svm)
    if name != "_CFNode" and any(key in values for key in _CENTERS):
        checks.append(_check_centers)
    if hasattr(values.get("_bisecting_tree"), "center"):
        checks.append(_check_bisecting)
    if module.startswith("sklearn.feature_extraction."):
        kind = values.get("input", "content")
        if type(kind) is not str or kind != "content":
            checks.append(_refuse_files)
        if "vocabulary_" in values:
            checks.append(encoders.check_vocabulary)
    if name == "OneHotEncoder":
        checks.append(encoders.check_one_hot)
    if "_subcluster_norms" in values:
        checks.append(_check_birch)
    if "n_features" in values and name in ("FeatureHasher", "HashingVectorizer"):
        checks.append(_check_hashing)
    if type(values.get("importance_getter")) is str and "__" in values["importance_getter"]:
        checks.append(_refuse_getter)
    return checks


def _check_arguments(estimator: Any) -> None:
    """Refuse named arguments by which numpy writes into an array, or leaves memory as it was."""
    for arguments in vars(estimator).values():
        if isinstance(arguments, dict):
            for name in ("out", "where"):
                # As a word of a vocabulary it has a number.
                value = arguments.get(name, 0)
                if isinstance(value, bool) or not isinstance(value, int | float | np.number | str | None):
                    raise Refused(f"a {type(estimator).__name__} has the argument {name!r} of a function")


def _ensemble_checks(module: str, name: str) -> list[Callable[[Any], None]]:
    if module == "sklearn.ensemble._gb":
        return [trees.check_boosting]
    if name == "IsolationForest":
        return [_check_isolation]
    return [_check_forest] if module == "sklearn.ensemble._forest" else []


def _check_forest(forest: Any) -> None:
    for estimator in forest.estimators_:
        if not type(estimator).__module__.startswith("sklearn.tree."):
            raise Refused("a forest has something else than trees")
    trees.check_features(forest.estimators_, forest.n_features_in_)


def _check_isolation(forest: Any) -> None:
    widths = [len(features) for features in forest.estimators_features_]
    if len(widths) != len(forest.estimators_):
        raise Refused("a forest has other features than trees")
    for estimator, width in zip(forest.estimators_, widths, strict=True):
        if not type(estimator).__module__.startswith("sklearn.tree."):
            raise Refused("a forest has something else than trees")
        trees.check_features([estimator], min(width, forest.n_features_in_))


def _check_sparse(matrix: Any) -> None:
    """Check the indices of a sparse matrix, which scipy's code in C++ believes."""
    try:
        if hasattr(matrix, "check_format"):
            matrix.check_format(full_check=True)
        elif matrix.format == "coo":
            matrix._check()
        elif matrix.format == "dia":
            offsets = np.asarray(matrix.offsets)
            if matrix.data.ndim != 2 or offsets.shape != (len(matrix.data),):
                raise Refused("a sparse matrix has other diagonals than offsets")
        elif matrix.format == "lil":
            _check_lists(matrix)
    except (AttributeError, TypeError, ValueError) as error:
        raise Refused(f"a sparse matrix is damaged: {error}") from error


def _check_lists(matrix: Any) -> None:
    rows, data = matrix.rows, matrix.data
    if rows.shape != data.shape or rows.shape != matrix.shape[:1]:
        raise Refused("a sparse matrix has other rows than it says")
    for columns, values in zip(rows.tolist(), data.tolist(), strict=True):
        is_row = type(columns) is list and type(values) is list and len(columns) == len(values)
        if not is_row or not all(type(each) is int and 0 <= each < matrix.shape[1] for each in columns):
            raise Refused("a sparse matrix has a column outside of it")


def _check_spline(spline: Any) -> None:
    """Check a B-spline, whose knots scipy searches without a bound."""
    knots, factors, degree = spline.t, spline.c, spline.k
    if not isinstance(knots, np.ndarray) or not isinstance(factors, np.ndarray) or knots.ndim != 1:
        raise Refused("a spline has no knots")
    if knots.dtype != np.float64 or type(degree) is not int or not 0 <= degree < 1000:
        raise Refused("a spline has no degree")
    count = len(knots) - degree - 1
    if count < degree + 1 or factors.ndim < 1 or len(factors) < count or spline.axis != 0:
        raise Refused("a spline has other factors than knots")
    if not np.isfinite(knots).all() or (np.diff(knots) < 0).any():
        raise Refused("a spline has knots out of order")


def _check_svm(machine: Any) -> None:
    """Check a support vector machine (sklearn/svm/src/libsvm/libsvm_helper.c)."""
    if not type(machine).__module__.startswith("sklearn.svm."):
        return
    count, classes = len(machine.support_), len(machine._n_support)
    pairs = classes * (classes - 1) // 2
    is_classifier = machine._impl in _SVM_CLASSES
    if is_classifier != hasattr(machine, "classes_") or machine._n_support.min() < 0 or classes < 2:
        raise Refused("a support vector machine has no classes")
    if is_classifier and (machine._n_support.sum() != count or classes != len(machine.classes_)):
        raise Refused("a support vector machine has other classes than vectors")
    if machine._dual_coef_.shape != (classes - 1 if is_classifier else 1, count):
        raise Refused("a support vector machine has other factors than vectors")
    if machine._intercept_.shape != (pairs if is_classifier else 1,):
        raise Refused("a support vector machine has other limits than classes")
    for array in (machine._probA, machine._probB):
        if array.size not in (0, pairs):
            raise Refused("a support vector machine has other limits than classes")
    if hasattr(machine._dual_coef_, "nnz") and machine._dual_coef_.data.shape != (
        count * machine._dual_coef_.shape[0],
    ):
        raise Refused("a support vector machine has other factors than vectors")
    if callable(machine.kernel) or machine.kernel == "precomputed":
        if count and not 0 <= machine.support_.min() <= machine.support_.max() < machine.shape_fit_[0]:
            raise Refused("a support vector machine has a vector outside of it")
    elif machine.support_vectors_.shape != (count, machine.n_features_in_):
        raise Refused("a support vector machine has vectors of other features")


def _check_centers(estimator: Any) -> None:
    for key in _CENTERS:
        centers = vars(estimator).get(key)
        if isinstance(centers, np.ndarray):
            if centers.shape[1:] != (estimator.n_features_in_,):
                raise Refused("the centres of a model have other features")
            if not len(centers):
                raise Refused("a model has no centres")


def _check_birch(birch: Any) -> None:
    if np.shape(birch._subcluster_norms) != (len(birch.subcluster_centers_),):
        raise Refused("the centres of a model have other norms")


def _check_bisecting(estimator: Any) -> None:
    nodes = [estimator._bisecting_tree]
    for node in nodes:
        if np.shape(node.center) != (estimator.n_features_in_,) or len(nodes) > 1_000_000:
            raise Refused("the centres of a model have other features")
        nodes += [child for child in (node.left, node.right) if child is not None]


def _refuse_files(vectorizer: Any) -> None:
    raise Refused(f"a {type(vectorizer).__name__} takes names of files, which callers would choose")


def _check_hashing(vectorizer: Any) -> None:
    if type(vectorizer.n_features) is not int or not 1 <= vectorizer.n_features < 2**31:
        raise Refused(f"a {type(vectorizer).__name__} has no features")


def _refuse_getter(selector: Any) -> None:
    raise Refused(f"a {type(selector).__name__} reads an attribute of Python's own")
