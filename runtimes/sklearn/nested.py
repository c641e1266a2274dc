"""The estimators inside an estimator: pipelines, searches, ensembles and the like hold others.

An object is an estimator by what it can do (`fit` and `get_params`), as CatBoost's derive from no class of
scikit-learn's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from runtimes.errors import LoadError

_PLAIN = (str, bytes, int, float, complex, bool, np.generic, type(None))
# Where meta-estimators keep what was fitted on the very columns that they take, by preference.
_FITTED = ("best_estimator_", "estimator_", "regressor_", "classifier_", "estimator", "base_estimator")
_FITTED_LISTS = ("estimators_", "calibrated_classifiers_")
_FEW = 64
# joblib would start processes for each call of theirs.
_IN_PROCESSES = frozenset(
    {"ColumnTransformer", "FeatureUnion", "MultiOutputClassifier", "MultiOutputRegressor"}
)
_LIBRARIES = frozenset({"sklearn", "xgboost", "lightgbm", "catboost"})


def is_estimator(thing: Any) -> bool:
    """Whether a thing, which is no class, is an estimator."""
    return not isinstance(thing, type) and hasattr(thing, "fit") and hasattr(thing, "get_params")


def library_of(estimator: Any) -> str:
    """Return the name of the package that an estimator's class is from."""
    return type(estimator).__module__.partition(".")[0]


def is_of_a_known_library(estimator: Any) -> bool:
    """Whether the estimator is of scikit-learn, XGBoost, LightGBM or CatBoost."""
    return library_of(estimator) in _LIBRARIES


def attribute(thing: Any, name: str) -> Any:
    """Return an attribute, None where it is missing or its property fails, as those of unfitted ones do."""
    try:
        return getattr(thing, name, None)
    except Exception:
        return None


def all_within(estimator: Any) -> Iterator[Any]:
    """Yield the estimator and each one that it holds, however deep; a class may occur many times."""
    seen: set[int] = set()
    stack: list[Any] = [estimator]
    while stack:
        thing = stack.pop()
        if isinstance(thing, _PLAIN) or id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, Mapping):
            stack += _unless_plain(list(thing.values()))
        elif isinstance(thing, (list, tuple)):
            stack += _unless_plain(thing)
        elif isinstance(thing, np.ndarray):
            stack += _unless_plain(thing.reshape(-1).tolist()) if thing.dtype == object else ()
        elif is_estimator(thing) or type(thing).__name__ == "_CalibratedClassifier":
            if is_estimator(thing):
                yield thing
            stack += members_of(thing).values()


def members_of(thing: Any) -> dict[str, Any]:
    """Return the members that an object has by itself, by name: the dictionary that holds them."""
    members = attribute(thing, "__dict__")
    return members if isinstance(members, dict) else {}


def _unless_plain(items: Any) -> Any:
    # Vocabularies and lists of classes are long, and hold no estimators.
    return () if len(items) > _FEW and isinstance(items[0], _PLAIN) else items


def fitted_parts(estimator: Any) -> list[Any]:
    """Return what a meta-estimator fitted on the columns that it takes itself; [] where it is none."""
    for name in _FITTED:
        part = attribute(estimator, name)
        if part is not None and is_estimator(part):
            return [part]
    for name in _FITTED_LISTS:
        parts = attribute(estimator, name)
        if isinstance(parts, list) and parts:
            inner = [attribute(part, "estimator") if not is_estimator(part) else part for part in parts]
            return [part for part in inner if is_estimator(part)]
    return []


def steps_of(estimator: Any) -> list[Any] | None:
    """Return the steps of a pipeline that do something, None for another estimator."""
    from sklearn.pipeline import Pipeline

    if not isinstance(estimator, Pipeline):
        return None
    return [step for _, step in estimator.steps if step not in (None, "passthrough")]


def first_of(estimator: Any, name: str) -> Any:
    """Return an attribute of the estimator, or else of what it passes its columns to."""
    value = attribute(estimator, name)
    if value is not None:
        return value
    steps = steps_of(estimator)
    for part in fitted_parts(estimator) if steps is None else steps[:1]:
        value = first_of(part, name)
        if value is not None:
            return value
    return None


def limit_threads(estimator: Any, threads: int) -> None:
    """Limit the threads of the estimator and of each one inside. Raises LoadError where that fails."""
    for part in all_within(estimator):
        members = members_of(part)
        jobs = members.get("n_jobs", 0)
        library = library_of(part)
        try:
            # None is one job for scikit-learn, and all cores for the others.
            is_free = library in ("xgboost", "lightgbm") and jobs is None
            if is_free or (isinstance(jobs, int | np.integer) and (jobs < 0 or jobs > threads)):
                part.n_jobs = threads
            if (members.get("n_jobs") or 1) != 1 and type(part).__name__ in _IN_PROCESSES:
                part.n_jobs = None
            if members.get("_n_threads", 0) > threads:
                members["_n_threads"] = threads
            if members.get("_Booster") is not None and library == "xgboost":
                members["_Booster"].set_param({"nthread": part.n_jobs})
        except Exception as error:
            name = type(part).__name__
            raise LoadError(f"the threads of {name} cannot be limited: {error!r}") from error
