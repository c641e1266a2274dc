"""What is in a file of XGBoost, JSON or UBJSON, read without the engine.

XGBoost follows the numbers of a file without looking whether they are within its bounds, and ends the process
where they are not. So everything that it follows is checked here: lengths, indices, and that trees are trees.
The layout is that of XGBoost's `doc/model.schema`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from runtimes.base import Array
from runtimes.boosters import ubjson
from runtimes.errors import LoadError

_MAX_FEATURES = 1 << 24
_MAX_GROUPS = 1 << 20
_MAX_CATEGORY = 1 << 24  # a larger one is no exact FP32

# Of each of them a tree has as many as it has nodes.
_OF_NODES = (
    *("left_children", "right_children", "parents", "split_indices", "split_conditions", "default_left"),
    *("loss_changes", "sum_hessian"),
)
_NO_PARENT = (-1, 2**31 - 1)


@dataclass(frozen=True, slots=True)
class XgboostFile:
    """What the file says of its model."""

    version: tuple[int, ...]
    """The release that wrote it."""
    booster: str
    """gbtree, dart or gblinear."""
    objective: str
    features: int
    classes: int
    """0 where the objective has no number of classes."""
    targets: int
    names: tuple[str, ...]
    """Empty where the features have none."""
    types: tuple[str, ...]
    categories: Mapping[int, tuple[str | int, ...]]
    """The values of categorical columns, by column, in the order of their codes."""
    rounds: int
    best_iteration: int | None
    """That of early stopping."""
    missing: float
    """The number that stands for a missing value besides NaN; NaN where there is none."""


def read(path: Path) -> tuple[XgboostFile, bytes]:
    """Read and check the file; return what it says, and its bytes. Raises LoadError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise LoadError(f"{path} cannot be read: {error}") from error
    try:
        return parse(data), data
    except ubjson.Malformed as error:
        raise _damaged(path, f"it is no whole UBJSON: {error}") from error
    except json.JSONDecodeError as error:
        raise _damaged(path, f"it is no whole JSON: {error}") from error
    except KeyError as error:
        raise _damaged(path, f"{error} is missing") from error
    except (ArithmeticError, AttributeError, IndexError, TypeError, ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from error


def parse(data: bytes) -> XgboostFile:
    """Check the bytes of a file. Raises ValueError and its like, without the file's name."""
    return checked(ubjson.loads(data) if data[1:2] in b"iUIlL" and data[:1] == b"{" else _json(data))


def checked(document: Any) -> XgboostFile:
    """Check the document of a model, see `parse`."""
    learner = document["learner"]
    parameters = learner["learner_model_param"]
    features = _count(parameters["num_feature"], "num_feature", _MAX_FEATURES)
    classes = _count(parameters.get("num_class", 0), "num_class", _MAX_GROUPS)
    targets = _count(parameters.get("num_target", 1), "num_target", _MAX_GROUPS)
    groups = max(classes, targets, 1)
    _check_base_score(str(parameters["base_score"]), groups)
    booster = learner["gradient_booster"]
    name = _text(booster["name"])
    rounds, categories = 0, {}
    if name == "gblinear":
        if len(booster["model"]["weights"]) != (features + 1) * groups:
            raise ValueError(f"there must be {(features + 1) * groups} weights")
        rounds = _count(booster["model"].get("boosted_rounds", 0), "boosted_rounds")
    elif name in ("gbtree", "dart"):
        model = booster["gbtree"]["model"] if name == "dart" else booster["model"]
        rounds = _check_trees(model, features, groups)
        if name == "dart" and len(booster["weight_drop"]) != len(model["trees"]):
            raise ValueError("weight_drop must have a number for each tree")
        categories = _categories(model.get("cats"), features)
    else:
        raise ValueError(f"unknown booster {name!r}")
    names = _texts(learner.get("feature_names", ()), features, "feature_names")
    attributes = learner.get("attributes", {})
    version = tuple(_count(number, "version") for number in document["version"])
    objective = learner["objective"]
    _check_objective(objective, groups)
    return XgboostFile(
        version=version,
        booster=name,
        objective=_text(objective["name"]),
        features=features,
        classes=classes,
        targets=targets,
        names=names,
        types=_texts(learner.get("feature_types", ()), features, "feature_types"),
        categories=categories,
        rounds=rounds,
        best_iteration=_best_iteration(attributes, rounds),
        missing=_missing(attributes),
    )


def _json(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        # XGBoost writes NaN and Infinity, too.
        return json.loads(data)


def _check_trees(model: Mapping[str, Any], features: int, groups: int) -> int:
    """Check all trees at once; return the number of boosting rounds. Raises ValueError."""
    trees = model["trees"]
    parameters = model["gbtree_model_param"]
    if _count(parameters["num_trees"], "num_trees") != len(trees):
        raise ValueError(f"num_trees is {parameters['num_trees']}, and there are {len(trees)}")
    parallel = _count(parameters.get("num_parallel_tree", 1), "num_parallel_tree")
    info = _integers(model["tree_info"], "tree_info")
    if len(info) != len(trees) or _is_outside(info, groups):
        raise ValueError("tree_info must have the class of each tree")
    sizes = []
    leaf_sizes = set()
    for position, tree in enumerate(trees):
        size = len(tree["left_children"])
        if not size or _count(tree["tree_param"]["num_nodes"], "num_nodes") != size:
            raise ValueError(f"tree {position} must have {tree['tree_param']['num_nodes']} nodes, not {size}")
        for key in _OF_NODES:
            if len(tree[key]) != size:
                raise ValueError(f"tree {position} has {size} nodes, but {len(tree[key])} {key}")
        if tree["id"] != position:
            raise ValueError(f"tree {position} says that it is tree {tree['id']}")
        if _count(tree["tree_param"]["num_feature"], "num_feature") > features:
            raise ValueError(f"tree {position} has another num_feature than the model")
        leaf_sizes.add(max(1, _count(tree["tree_param"].get("size_leaf_vector", 1), "size_leaf_vector")))
        _check_leaves(tree, size, position)
        _check_categories(tree, size, position)
        sizes.append(size)
    if not leaf_sizes <= {1} and leaf_sizes != {groups}:
        raise ValueError("size_leaf_vector must be the number of targets in each tree")
    if trees:
        _check_nodes(trees, np.array(sizes), features)
    starts = model.get("iteration_indptr")
    if starts is None:
        per_round = max(1, parallel) * (groups if leaf_sizes <= {1} else 1)
        return len(trees) // per_round
    starts = _integers(starts, "iteration_indptr")
    if not len(starts):
        starts = np.zeros(1, np.int64)
    if starts[0] != 0 or starts[-1] != len(trees) or (np.diff(starts) < 0).any():
        raise ValueError(f"iteration_indptr must go from 0 to {len(trees)}")
    return len(starts) - 1


def _check_leaves(tree: Mapping[str, Any], size: int, position: int) -> None:
    """Check that there are values for all leaves of a tree."""
    values = max(1, int(tree["tree_param"].get("size_leaf_vector", 1)))
    # Since 3.1 the leaves of a tree of several targets are in a list, with their place in it on the right.
    if len(tree["base_weights"]) != size * values:
        raise ValueError(f"tree {position} must have {size * values} base_weights")
    if values > 1 and (weights := tree.get("leaf_weights")) is not None:
        is_leaf = _integers(tree["left_children"], "left_children") == -1
        indices = _integers(tree["right_children"], "right_children")[is_leaf]
        if len(weights) % values or _is_outside(indices, len(weights) // values):
            raise ValueError(f"tree {position} has leaves without leaf_weights")


def _check_categories(tree: Mapping[str, Any], size: int, position: int) -> None:
    """Check that the nodes which split by categories have some."""
    if "split_type" not in tree:
        return
    kinds, nodes = _integers(tree["split_type"], "split_type"), tree.get("categories_nodes", ())
    if len(kinds) != size or _is_outside(kinds, 2):
        raise ValueError(f"tree {position} must have {size} split_type, each 0 or 1")
    is_categorical = np.flatnonzero(kinds == 1)
    if not len(is_categorical) and not len(nodes):
        return
    nodes, starts, counts, values = (
        _integers(tree[key], key)
        for key in ("categories_nodes", "categories_segments", "categories_sizes", "categories")
    )
    if (
        not np.array_equal(nodes, is_categorical)
        or not len(nodes) == len(starts) == len(counts)
        or _is_outside(starts, len(values) + 1)
        or _is_outside(counts, len(values) + 1)
        or (starts + counts > len(values)).any()
        or _is_outside(values, _MAX_CATEGORY)
    ):
        raise ValueError(f"tree {position} has categories that are out of bounds")


def _check_nodes(trees: Sequence[Mapping[str, Any]], sizes: Array, features: int) -> None:
    """Walk down all trees together: each node must have one parent, and a feature that exists."""
    left, right, parents, columns = (
        np.concatenate([_integers(tree[key], key) for tree in trees])
        for key in ("left_children", "right_children", "parents", "split_indices")
    )
    starts = np.cumsum(sizes) - sizes
    tree_of = np.repeat(np.arange(len(sizes)), sizes)
    first, size = starts[tree_of], sizes[tree_of]
    if (((parents < 0) | (parents >= size)) & ~np.isin(parents, _NO_PARENT)).any():
        raise ValueError("a node has a parent that is out of bounds")
    was_seen = np.zeros(len(left), bool)
    nodes = starts
    while len(nodes):
        was_seen[nodes] = True
        nodes = nodes[left[nodes] != -1]
        if _is_outside(columns[nodes], features):
            raise ValueError(f"a node splits by a feature that the model, which has {features}, has not")
        children = np.concatenate([left[nodes], right[nodes]])
        above = np.concatenate([nodes, nodes])
        if ((children <= 0) | (children >= size[above])).any():
            raise ValueError("a node has a child that is out of bounds")
        if (parents[children + first[above]] != above - first[above]).any():
            raise ValueError("a node has another parent than the one whose child it is")
        children += first[above]
        if was_seen[children].any() or len(np.unique(children)) < len(children):
            raise ValueError("a node is the child of two")
        nodes = children


def _categories(cats: Mapping[str, Any] | None, features: int) -> dict[int, tuple[str | int, ...]]:
    """Return the values of the categorical columns, which XGBoost writes since 3.1."""
    if not cats or not len(cats["enc"]):
        return {}
    if len(cats["enc"]) != features:
        raise ValueError("cats must have an entry for each feature")
    categories: dict[int, tuple[str | int, ...]] = {}
    for position, column in enumerate(cats["enc"]):
        values = _integers(column["values"], "values")
        if "offsets" not in column:
            categories[position] = tuple(values.tolist())
        elif len(column["offsets"]) > 1:
            text = (values & 0xFF).astype(np.uint8).tobytes()
            offsets = _integers(column["offsets"], "offsets")
            if offsets[0] != 0 or offsets[-1] != len(text) or (np.diff(offsets) < 0).any():
                raise ValueError(f"the categories of feature {position} are out of bounds")
            bounds = offsets.tolist()
            pairs = pairwise(bounds)
            categories[position] = tuple(text[start:end].decode() for start, end in pairs)
    counts = [len(categories.get(position, ())) for position in range(features)]
    starts = _integers(cats["feature_segments"], "feature_segments")
    order = _integers(cats["sorted_idx"], "sorted_idx")
    if starts.tolist() != [0, *np.cumsum(counts).tolist()] or len(order) != sum(counts):
        raise ValueError("feature_segments do not fit the categories")
    for start, count in zip(starts.tolist(), counts, strict=False):
        if sorted(order[start : start + count].tolist()) != list(range(count)):
            raise ValueError("sorted_idx does not fit the categories")
    return {position: values for position, values in categories.items() if values}


def _check_objective(objective: Mapping[str, Any], groups: int) -> None:
    """Check the number of classes that the objective has of its own."""
    name = _text(objective["name"])
    if name.startswith("multi:"):
        count = _count(objective["softmax_multiclass_param"]["num_class"], "num_class")
        if count != groups:
            raise ValueError(f"{name} has {count} classes, and the model {groups}")


def _check_base_score(text: str, groups: int) -> None:
    """Check the bias: a number, or since 3.1 a list of them."""
    values = [float(part) for part in text.strip("[]").split(",")]
    if len(values) not in (1, groups):
        raise ValueError(f"base_score has {len(values)} numbers, and the model {groups} outputs")


def _best_iteration(attributes: Mapping[str, Any], rounds: int) -> int | None:
    text = attributes.get("best_iteration")
    if text is None:
        return None
    best = int(text)
    if not 0 <= best < max(1, rounds):
        raise ValueError(f"best_iteration is {best}, and there are {rounds} rounds")
    return best


def _missing(attributes: Mapping[str, Any]) -> float:
    """Return what the estimators of releases before 2.1 wrote of themselves; NaN where there is nothing."""
    try:
        value = json.loads(attributes["scikit_learn"])["missing"]
    except (KeyError, TypeError, ValueError):
        return float("nan")
    return float(value) if isinstance(value, int | float) else float("nan")


def _integers(values: Iterable[Any], name: str) -> Array:
    array = np.asarray(values)
    if not array.size:
        return np.zeros(0, np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iub":
        raise ValueError(f"{name} must be whole numbers")
    return array.astype(np.int64)


def _is_outside(values: Array, bound: int) -> bool:
    return bool(((values < 0) | (values >= bound)).any())


def _count(value: object, name: str, maximum: int = 2**31 - 1) -> int:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise TypeError(f"{name} must be a whole number")
    count = int(value)
    if not 0 <= count <= maximum:
        raise ValueError(f"{name} is {count}, which is out of bounds")
    return count


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _texts(values: Sequence[object], count: int, name: str) -> tuple[str, ...]:
    if len(values) not in (0, count):
        raise ValueError(f"there are {len(values)} {name} for {count} features")
    return tuple(_text(value) for value in values)


def _damaged(path: Path, reason: str) -> LoadError:
    return LoadError(f"{path} is a damaged file of XGBoost: {reason}; copy or save the model again")
