"""What is in a text file of LightGBM, read without the engine.

LightGBM ends the process at numbers that it cannot read, and follows others without looking whether they are
within its bounds. So the trees are checked here before it reads them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from runtimes.base import Array
from runtimes.errors import LoadError

_HEAD_BYTES = 16 * 1024 * 1024
_TAIL_BYTES = 1024 * 1024
_MAX_FEATURES = 1 << 24
_MAX_CLASSES = 1 << 16

_TREES = b"\nTree="
_END = b"end of trees"
_REST = "\n\nfeature_importances:\n\npandas_categorical:null\n"
_NUMBER = rb"[+-]?(?:\d+\.?\d*(?:[eE][+-]?\d+)?|inf|nan)"
_NUMBERS = re.compile(rb"%s(?: %s)*" % (_NUMBER, _NUMBER))
_INTEGERS = re.compile(rb"-?\d{1,10}(?: -?\d{1,10})*")
_INFO = re.compile(r"none|\[[^:\s]+:[^:\s]+\]|-?\d+(?::-?\d+)*")

# What a tree has of each internal node, and of each leaf; the first are always there.
_OF_NODES = (b"split_feature", b"threshold", b"decision_type", b"left_child", b"right_child")
_OF_NODES_TOO = (b"split_gain", b"internal_value", b"internal_weight", b"internal_count")
_OF_LEAVES_TOO = (b"leaf_weight", b"leaf_count")


_Read = TypeVar("_Read")


@dataclass(frozen=True, slots=True)
class LightgbmFile:
    """What the file says of its model."""

    objective: str
    """Its name and its parameters; "" where there is none."""
    classes: int
    outputs: int
    """The trees of an iteration."""
    features: int
    names: tuple[str, ...]
    infos: tuple[str, ...]
    """The values of each feature: `[low:high]`, `1:2:3` of a categorical one, `none` of an unused one."""
    categorical: tuple[int, ...]
    """The columns that the model was trained to take as categories, as far as the file says."""
    categories: tuple[tuple[object, ...], ...]
    """The values of the categories of pandas, for each column that had some, in the order of their codes."""


def read_header(path: Path) -> LightgbmFile:
    """Read all but the trees. Raises LoadError."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            tail = file.read()
    except OSError as error:
        raise LoadError(f"{path} cannot be read: {error}") from error
    return _told(path, lambda: _header(head, tail))


def read(path: Path) -> tuple[LightgbmFile, str]:
    """Read and check the file; return what it says, and the text for LightGBM. Raises LoadError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise LoadError(f"{path} cannot be read: {error}") from error
    return _told(path, lambda: parse(data))


def parse(data: bytes) -> tuple[LightgbmFile, str]:
    """Check the bytes of a file, see `read`. Raises ValueError and its like, without the file's name.

    The text ends with the trees: predictions need nothing of what follows, the parameters of the training,
    and where these are damaged LightGBM ends the process.
    """
    file = _header(data[:_HEAD_BYTES], data[-_TAIL_BYTES:])
    start = data.find(_TREES) + 1
    end = data.find(_END, start) if start else -1
    if not start or end < 0:
        raise ValueError("the end of the trees is missing")
    # LightGBM takes each of these for the end of a line.
    if b"\r" in data[:end] or b"\0" in data[:end]:
        raise ValueError("its lines have other ends than LightGBM writes")
    _check_trees(data, start, end, file)
    return file, data[: end + len(_END)].decode() + _REST


def _told(path: Path, reading: Callable[[], _Read]) -> _Read:
    try:
        return reading()
    except KeyError as error:
        raise _damaged(path, f"{error} is missing") from error
    except (ArithmeticError, AttributeError, IndexError, TypeError, ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from error


def _header(head: bytes, tail: bytes) -> LightgbmFile:
    lines = head[: (head.find(_TREES) + 1) or len(head)].decode().split("\n")
    if lines[0] != "tree":
        raise ValueError("it does not begin as one")
    pairs = dict(line.partition("=")[::2] for line in lines[1:])
    features = _count(pairs["max_feature_idx"], "max_feature_idx", _MAX_FEATURES) + 1
    classes = _count(pairs["num_class"], "num_class", _MAX_CLASSES)
    outputs = _count(
        pairs.get("num_tree_per_iteration", pairs["num_class"]), "num_tree_per_iteration", _MAX_CLASSES
    )
    names, infos = pairs["feature_names"].split(), pairs["feature_infos"].split()
    _count(pairs.get("label_index", "0"), "label_index", _MAX_FEATURES)
    if not classes or not outputs or len(names) != features or len(infos) != features:
        raise ValueError(f"{features} features have {len(names)} names and {len(infos)} ranges of values")
    if not all(_INFO.fullmatch(info) for info in infos):
        raise ValueError("feature_infos is no list of ranges and values")
    objective = pairs.get("objective", "")
    is_multiclass = objective.startswith("multiclass")
    if is_multiclass and (f"num_class:{classes}" not in objective.split() or classes != outputs):
        raise ValueError(f"objective {objective!r} does not fit num_class {classes}")
    parameters = re.findall(rb"\[(\w+): ([^\n]*)\]\n", tail)
    return LightgbmFile(
        objective=objective,
        classes=classes,
        outputs=outputs,
        features=features,
        names=tuple(names),
        infos=tuple(infos),
        categorical=_categorical(dict(parameters).get(b"categorical_feature", b"").decode(), names),
        categories=_categories(tail),
    )


def _categorical(text: str, names: Sequence[str]) -> tuple[int, ...]:
    """Return the columns of the parameter `categorical_feature`: numbers, or `name:` and names."""
    if not text:
        return ()
    if text.startswith("name:"):
        parts = text.removeprefix("name:").split(",")
        return tuple(sorted(names.index(part) for part in parts if part in names))
    return tuple(sorted({int(part) for part in text.split(",") if int(part) < len(names)}))


def _categories(tail: bytes) -> tuple[tuple[object, ...], ...]:
    """Return the last line, which LightGBM's Python package writes."""
    *_, last = tail.rstrip(b"\n").rpartition(b"\n")
    if not last.startswith(b"pandas_categorical:"):
        return ()
    lists = json.loads(last.removeprefix(b"pandas_categorical:"))
    if lists is None:
        return ()
    if not isinstance(lists, list) or not all(isinstance(values, list) for values in lists):
        raise ValueError("pandas_categorical is no list of lists")
    return tuple(tuple(values) for values in lists)


def _check_trees(data: bytes, start: int, end: int, file: LightgbmFile) -> None:
    """Check each tree by itself, then walk down all of them together. Raises ValueError."""
    header = data[:start]
    starts = [match.start() for match in re.finditer(rb"^Tree=", data[start:end], re.MULTILINE)]
    blocks = [
        data[start + first : start + last]
        for first, last in zip(starts, [*starts[1:], end - start], strict=True)
    ]
    sizes = re.search(rb"^tree_sizes=(.*)$", header, re.MULTILINE)
    if sizes is not None and [int(size) for size in sizes[1].split()] != [len(block) for block in blocks]:
        raise ValueError("the lengths of the trees are not those of tree_sizes")
    if len(blocks) % file.outputs:
        raise ValueError(f"there are {len(blocks)} trees, {file.outputs} in each iteration")
    forest = [
        _nodes(_pairs(block, position), position, file.features) for position, block in enumerate(blocks)
    ]
    forest = [tree for tree in forest if len(tree[0])]
    if not forest:
        return
    left, right = (np.concatenate([tree[side] for tree in forest]) for side in (0, 1))
    counts = np.array([len(tree[0]) for tree in forest])
    starts_of = np.cumsum(counts) - counts
    tree_of = np.repeat(np.arange(len(counts)), counts)
    first, count = starts_of[tree_of], counts[tree_of]
    was_seen = np.zeros(len(left), bool)
    nodes = starts_of
    while len(nodes):
        was_seen[nodes] = True
        children = np.concatenate([left[nodes], right[nodes]])
        above = np.concatenate([nodes, nodes])
        if ((children >= count[above]) | (~children > count[above])).any():
            raise ValueError("a node has a child that is out of bounds")
        nodes = (children + first[above])[children >= 0]
        if was_seen[nodes].any() or len(np.unique(nodes)) < len(nodes):
            raise ValueError("a node is the child of two")


def _pairs(block: bytes, position: int) -> dict[bytes, bytes]:
    lines = block.rstrip(b"\n").split(b"\n")
    if lines[0] != b"Tree=%d" % position:
        raise ValueError(f"tree {position} is called {lines[0][:40]!r}")
    pairs: dict[bytes, bytes] = {}
    for line in lines[1:]:
        key, equals, value = line.partition(b"=")
        value = b" ".join(value.split())
        if not equals or key in pairs or (value and not _NUMBERS.fullmatch(value)):
            raise ValueError(f"tree {position} has the line {line[:40]!r}")
        pairs[key] = value
    return pairs


def _nodes(pairs: Mapping[bytes, bytes], position: int, features: int) -> tuple[Array, Array]:
    """Check a tree but for its form; return the left and the right children of its nodes."""
    leaves = _count(pairs[b"num_leaves"].decode(), "num_leaves", 2**31 - 1)
    sets = _count(pairs[b"num_cat"].decode(), "num_cat", 2**31 - 1)
    nodes = leaves - 1
    expected = {b"leaf_value": leaves}
    if nodes > 0:
        expected |= dict.fromkeys(_OF_NODES, nodes)
        expected |= {key: nodes for key in _OF_NODES_TOO if key in pairs}
        expected |= {key: leaves for key in _OF_LEAVES_TOO if key in pairs}
    for key, count in expected.items():
        if len(pairs[key].split()) != count:
            raise ValueError(f"tree {position} must have {count} numbers in {key.decode()}")
    if pairs.get(b"is_linear", b"0") != b"0":
        _check_linear(pairs, position, leaves, features)
    if nodes <= 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    columns, kinds, left, right = (
        _integers(pairs, key) for key in (b"split_feature", b"decision_type", b"left_child", b"right_child")
    )
    if _is_outside(columns, features) or _is_outside(kinds, 16):
        raise ValueError(f"tree {position} splits by a feature, or in a way, that there is not")
    if is_categorical := (kinds & 1).astype(bool).any():
        indices = np.array(pairs[b"threshold"].split(), np.float64)[(kinds & 1).astype(bool)]
        if not (indices == np.floor(indices)).all() or _is_outside(indices, sets):
            raise ValueError(f"tree {position} splits by categories that there are not")
    if is_categorical or sets:
        bounds = _integers(pairs, b"cat_boundaries")
        length = len(pairs[b"cat_threshold"].split())
        if len(bounds) != sets + 1 or bounds[0] != 0 or bounds[-1] != length or (np.diff(bounds) < 0).any():
            raise ValueError(f"tree {position} has categories that are out of bounds")
    return left, right


def _check_linear(pairs: Mapping[bytes, bytes], position: int, leaves: int, features: int) -> None:
    """Check the linear models in the leaves of a tree."""
    counts = _integers(pairs, b"num_features")
    columns = _integers(pairs, b"leaf_features")
    total = int(counts.sum())
    if (
        len(counts) != leaves
        or (counts < 0).any()
        or len(pairs[b"leaf_const"].split()) != leaves
        or len(columns) != total
        or len(pairs[b"leaf_coeff"].split()) != total
        or _is_outside(columns, features)
    ):
        raise ValueError(f"tree {position} has linear models that are out of bounds")


def _integers(pairs: Mapping[bytes, bytes], key: bytes) -> Array:
    parts = pairs[key].split()
    if parts and not _INTEGERS.fullmatch(b" ".join(parts)):
        raise ValueError(f"{key.decode()} must be whole numbers")
    return np.array([int(part) for part in parts], np.int64)


def _is_outside(values: Array, bound: int) -> bool:
    return bool(((values < 0) | (values >= bound)).any())


def _count(text: str, name: str, maximum: int) -> int:
    count = int(text)
    if not 0 <= count <= maximum:
        raise ValueError(f"{name} is {count}, which is out of bounds")
    return count


def _damaged(path: Path, reason: str) -> LoadError:
    return LoadError(f"{path} is a damaged file of LightGBM: {reason}; copy or save the model again")
