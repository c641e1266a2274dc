"""What code in C believes of trees of neighbours and of distances (sklearn/neighbors/_binary_tree.pxi)."""

from __future__ import annotations

from typing import Any

import numpy as np

from runtimes.pickles.refusals import Refused

_WEIGHTED = ("SEuclidean", "Minkowski", "Mahalanobis")


def check_state(made: Any, state: object) -> None:
    """Check the state of a KDTree, a BallTree or a distance before it is taken over. Raises Refused."""
    if type(state) is tuple and len(state) == 3:
        _check_distance(state)
    elif type(state) is tuple and len(state) == 13:
        _check_tree(made, state)
    else:
        raise Refused("a tree of neighbours or a distance has an unknown form")


def _check_distance(state: tuple[Any, ...]) -> None:
    power, vector, matrix = state
    is_vector = isinstance(vector, np.ndarray) and vector.ndim == 1
    is_matrix = isinstance(matrix, np.ndarray) and matrix.ndim == 2 and len(set(matrix.shape)) == 1
    if not isinstance(power, float) or not is_vector or not is_matrix:
        raise Refused("a distance has an unknown form")


def _check_tree(tree: Any, state: tuple[Any, ...]) -> None:
    data, order, nodes, bounds, _, levels, count = state[:7]
    distance, weights = state[11:]
    if not all(isinstance(array, np.ndarray) for array in (data, order, nodes, bounds)):
        raise Refused("a tree of neighbours has no data")
    samples, features = data.shape if data.ndim == 2 else (0, 0)
    is_ball = type(tree).__name__.startswith("Ball")
    shape = (1 if is_ball else 2, count, features)
    if not samples or order.shape != (samples,) or nodes.shape != (count,) or bounds.shape != shape:
        raise Refused("a tree of neighbours has another shape than its data")
    if not 1 <= levels < 60 or count != 2**levels - 1 or order.min() < 0 or order.max() >= samples:
        raise Refused("a tree of neighbours has a sample outside of it")
    start, end = nodes["idx_start"], nodes["idx_end"]
    if not ((start >= 0) & (start <= end) & (end <= samples)).all():
        raise Refused("a tree of neighbours has a sample outside of it")
    if not nodes["is_leaf"][count // 2 :].all():
        raise Refused("a tree of neighbours has a node outside of it")
    if weights is not None and (not isinstance(weights, np.ndarray) or weights.shape != (samples,)):
        raise Refused("a tree of neighbours has other weights than samples")
    name = type(distance).__name__
    if type(distance).__module__ != "sklearn.metrics._dist_metrics":
        raise Refused("a tree of neighbours has no distance")
    if name.startswith("Haversine") and features != 2:
        raise Refused("a tree of neighbours has a distance of two features")
    _, vector, matrix = distance.__getstate__()
    size = len(matrix) if name.startswith("Mahalanobis") else len(vector)
    may_be_none = name.startswith("Minkowski") and not size
    if name.startswith(_WEIGHTED) and size != features and not may_be_none:
        raise Refused("a tree of neighbours has a distance of other features")
    if not name.endswith(type(tree).__name__[-2:]) and type(tree).__name__[-2:].isdigit():
        raise Refused("a tree of neighbours has a distance of another precision")


def check_neighbors(estimator: Any) -> None:
    """Check the samples and classes that an estimator of neighbours keeps."""
    values = vars(estimator)
    data, labels, classes = values["_fit_X"], values.get("_y"), values.get("classes_")
    metric = values.get("effective_metric_", values.get("metric"))
    if isinstance(data, np.ndarray) and metric != "precomputed":
        if data.ndim != 2 or data.shape[1] != estimator.n_features_in_:
            raise Refused("a model of neighbours has samples of other features")
        if labels is not None and len(labels) != len(data):
            raise Refused("a model of neighbours has other samples than labels")
    count = data.shape[0] if hasattr(data, "shape") else None
    if count is not None and values.get("n_samples_fit_", count) != count:
        raise Refused("a model of neighbours has other samples than it says")
    if classes is not None and isinstance(labels, np.ndarray):
        is_class = labels.dtype.kind in "iu" and (labels.ndim > 1 or isinstance(classes, np.ndarray))
        if not is_class:
            raise Refused("a model of neighbours has a label that is no class")
    if isinstance(classes, np.ndarray) and isinstance(labels, np.ndarray) and labels.dtype.kind in "iu":
        is_within = labels.size and labels.min() >= 0 and labels.max() < len(classes)
        if labels.ndim == 1 and not is_within:
            raise Refused("a model of neighbours has a label that is no class")
