"""The checks of a known pickle, for objects that another loader made of names of the same list."""

from __future__ import annotations

from types import BuiltinFunctionType, FunctionType
from typing import Any

import numpy as np

from runtimes.pickles import neighbors, trees
from runtimes.pickles.finished import check_finished
from runtimes.pickles.objects import check_attributes
from runtimes.pickles.refusals import Refused

_OF_NEIGHBORS = (
    "sklearn.neighbors._kd_tree",
    "sklearn.neighbors._ball_tree",
    "sklearn.metrics._dist_metrics",
)
_FUNCTIONS = (np.ufunc, FunctionType, BuiltinFunctionType, type(np.mean))
_CONTAINERS = (list, tuple, set, frozenset)


def check_whole(value: Any) -> None:
    """Check an object and all that it holds, as far as code in C would believe it. Raises Refused."""
    # They are held, so that no identity comes twice.
    seen: dict[int, Any] = {}
    rest: list[Any] = [value]
    while rest:
        part = rest.pop()
        if id(part) in seen or isinstance(part, str | bytes | int | float | type | None):
            continue
        seen[id(part)] = part
        if isinstance(part, dict):
            rest += part.values()
        elif isinstance(part, _CONTAINERS):
            rest += part
        elif isinstance(part, np.ndarray):
            rest += part.reshape(-1).tolist() if part.dtype == object else ()
        elif hasattr(part, "__dict__") and not isinstance(part, _FUNCTIONS):
            check_attributes(type(part), vars(part))
            rest += vars(part).values()
        module = type(part).__module__
        if module == "sklearn.tree._tree":
            # Its state is read out of memory by this count.
            if not 0 < part.node_count <= part.capacity:
                raise Refused(f"a tree has {part.node_count} nodes in the place of {part.capacity}")
            trees.check_state(part, part.__getstate__())
        elif module in _OF_NEIGHBORS:
            neighbors.check_state(part, part.__getstate__())
    for part in seen.values():
        try:
            check_finished(part)
        except Refused:
            raise
        except Exception as error:
            raise Refused(f"a {type(part).__name__} is no whole one: {error!r}") from error
