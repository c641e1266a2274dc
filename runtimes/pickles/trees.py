"""What code in C believes of decision trees: that each index of a node is within the tree or the row."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from runtimes.pickles.refusals import Refused


def check_state(tree: Any, state: object) -> None:
    """Check the state of a Tree before it is taken over (sklearn/tree/_tree.pyx). Raises Refused."""
    nodes = state.get("nodes") if type(state) is dict else None
    values = state.get("values") if type(state) is dict else None
    if not isinstance(nodes, np.ndarray) or nodes.ndim != 1 or nodes.dtype.names is None:
        raise Refused("a decision tree has no nodes")
    count = state["node_count"]  # type: ignore[index]
    if count != len(nodes) or not isinstance(values, np.ndarray) or len(values) != len(nodes) or not count:
        raise Refused("a decision tree has another number of nodes than it says")
    left, right = nodes["left_child"].astype(np.int64), nodes["right_child"].astype(np.int64)
    is_inner = left != -1
    # A child always comes after its parent, so that every way down ends.
    own = np.arange(len(nodes))[is_inner]
    children = np.stack([left[is_inner], right[is_inner]])
    if not ((children > own) & (children < len(nodes))).all():
        raise Refused("a decision tree has a node outside of it")
    features = nodes["feature"][is_inner]
    if not ((features >= 0) & (features < tree.n_features)).all():
        raise Refused("a decision tree asks for a feature that there is not")


def check_estimator(estimator: Any) -> None:
    """Check that a tree reads no more features than its estimator takes."""
    check_features([estimator], estimator.n_features_in_)


def check_features(estimators: Any, width: int) -> None:
    """Check that the trees of estimators read no more than `width` features of a row."""
    for estimator in np.asarray(estimators, object).reshape(-1):
        tree = vars(estimator).get("tree_") if hasattr(estimator, "__dict__") else None
        if tree is not None and type(tree).__module__ != "sklearn.tree._tree":
            raise Refused("a decision tree has something else in its place")
        if tree is not None and not getattr(tree, "n_features", 0) <= width:
            raise Refused("a decision tree takes more features than its model")


def check_boosting(estimator: Any) -> None:
    """Check GradientBoosting, whose stages are added to an array of the first guesses' shape."""
    check_features(estimator.estimators_, estimator.n_features_in_)
    stages = estimator.estimators_
    if not isinstance(stages, np.ndarray) or stages.ndim != 2:
        raise Refused("a model has no stages")
    for stage in stages.reshape(-1):
        if type(stage).__module__ != "sklearn.tree._classes" or type(stage.tree_).__name__ != "Tree":
            raise Refused("a stage of a model is no decision tree")
        if tuple(stage.tree_.value.shape[1:]) != (1, 1):
            raise Refused("a stage of a model predicts more than a number")
    first = estimator._raw_predict_init(np.zeros((1, estimator.n_features_in_), np.float32))
    if first.shape != (1, stages.shape[1]) or first.dtype != np.float64:
        raise Refused("a model has other stages than classes")


def check_histogram(estimator: Any) -> None:
    """Check the predictors of HistGradientBoosting (sklearn/ensemble/_hist_gradient_boosting)."""
    predictors = [predictor for stage in estimator._predictors for predictor in stage]
    widths = {len(stage) for stage in estimator._predictors}
    if len(widths) > 1 or not widths <= {estimator.n_trees_per_iteration_}:
        raise Refused("a model has other stages than classes")
    baseline = estimator._baseline_prediction
    if np.size(baseline) not in (1, estimator.n_trees_per_iteration_):
        raise Refused("a model has other stages than classes")
    is_categorical = np.asarray(estimator._bin_mapper.is_categorical_)
    if is_categorical.ndim != 1 or len(is_categorical) < estimator._n_features:
        raise Refused("a model has other features than categories")
    width = min(estimator._n_features, estimator.n_features_in_)
    for predictor in predictors:
        _check_predictor(predictor, width, is_categorical)


def _check_predictor(predictor: Any, width: int, is_categorical: npt.NDArray[Any]) -> None:
    nodes, bitsets = predictor.nodes, predictor.raw_left_cat_bitsets
    if not isinstance(nodes, np.ndarray) or nodes.ndim != 1 or not len(nodes):
        raise Refused("a decision tree has no nodes")
    inner = nodes[nodes["is_leaf"] == 0]
    own = np.arange(len(nodes))[nodes["is_leaf"] == 0]
    children = np.stack([inner["left"].astype(np.int64), inner["right"].astype(np.int64)])
    if not ((children > own) & (children < len(nodes))).all():
        raise Refused("a decision tree has a node outside of it")
    features = inner["feature_idx"]
    if not ((features >= 0) & (features < width)).all():
        raise Refused("a decision tree asks for a feature that there is not")
    by_category = inner[inner["is_categorical"] != 0]
    if not (is_categorical[by_category["feature_idx"]] != 0).all():
        raise Refused("a decision tree asks for a category of a number")
    categorical = by_category["bitset_idx"].astype(np.int64)
    if len(categorical) and (bitsets.ndim != 2 or bitsets.shape[1] != 8 or categorical.max() >= len(bitsets)):
        raise Refused("a decision tree has categories outside of it")
