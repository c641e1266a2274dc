"""Named columns as an array: what it takes that estimators which were fitted on a frame take rows of numbers.

Scikit-learn warns where an array comes in place of a frame, and a ColumnTransformer cannot choose by name in
one. So each estimator inside forgets the names, and a ColumnTransformer gets the positions in their place.
The columns come in the order of the names, so that nothing else changes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from runtimes.sklearn.columns import positions_of
from runtimes.sklearn.nested import all_within, attribute, is_of_a_known_library, members_of

# Their answer to a row depends on the other rows, as they stop by an error over all of them.
_DEPENDENT = frozenset({"NMF", "MiniBatchNMF"})


def takes_arrays(estimator: Any) -> bool:
    """Whether all inside is of the known libraries, and no function is called that may look for names."""
    return all(is_of_a_known_library(part) and not _has_function(part) for part in all_within(estimator))


def calls_a_function(estimator: Any) -> bool:
    """Whether a function of the file's own is called, which may fail on rows that are made up."""
    return any(_has_function(part) for part in all_within(estimator))


def are_rows_independent(estimator: Any) -> bool:
    """Whether the answer to a row is known to be the same whatever other rows a call has."""
    return takes_arrays(estimator) and all(
        type(part).__name__ not in _DEPENDENT for part in all_within(estimator)
    )


def _has_function(part: Any) -> bool:
    """Whether a FunctionTransformer has a function that is not known to treat each number alone."""
    if type(part).__name__ != "FunctionTransformer":
        return False
    function = attribute(part, "func")
    if isinstance(function, partial):
        # HistGradientBoosting's own check of numbers.
        function = function.func
    is_check = attribute(function, "__module__") == "sklearn.utils.validation"
    return not (function is None or isinstance(function, np.ufunc) or is_check)


def forget_names(estimator: Any) -> Callable[[], None]:
    """Have an estimator take arrays in place of frames; return what undoes that."""
    changes: list[tuple[dict[str, Any], str, Any]] = []

    def change(members: dict[str, Any], name: str) -> None:
        changes.append((members, name, members[name]))

    for part in all_within(estimator):
        members = members_of(part)
        names = members.get("feature_names_in_")
        transformers = members.get("transformers_")
        if names is not None and transformers is not None:
            change(members, "transformers_")
            members["transformers_"] = [
                (name, inner, _positions(chosen, list(names))) for name, inner, chosen in transformers
            ]
        for name in ("feature_names_in_", "_sklearn_output_config"):
            # The latter has a step give a frame, whose names the next step would miss.
            if name in members:
                change(members, name)
                del members[name]
        if members.get("_fitted_with_feature_names"):  # LightGBM's
            change(members, "_fitted_with_feature_names")
            members["_fitted_with_feature_names"] = False

    def remember() -> None:
        for members, name, value in reversed(changes):
            members[name] = value

    return remember


def _positions(chosen: Any, names: list[str]) -> Any:
    positions = positions_of(chosen, names)
    return positions[0] if isinstance(chosen, str) else positions
