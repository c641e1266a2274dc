"""How the methods of an estimator are called, with no step computed twice.

`predict` and `predict_proba` of a pipeline both transform the rows first; here they are transformed once. A
search is its best estimator. Where a classifier predicts the likeliest class by its own definition, that is
taken from its probabilities. And where all that it answers is made of its scores, these are computed once.
All answers are those of the estimator's own methods, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from runtimes.sklearn.nested import attribute, library_of
from runtimes.sklearn.outputs import Result

_LIKELIEST = frozenset(
    {
        ("sklearn", "RandomForestClassifier"),
        ("sklearn", "ExtraTreesClassifier"),
        ("lightgbm", "LGBMClassifier"),
        ("xgboost", "XGBClassifier"),
        ("xgboost", "XGBRFClassifier"),
    }
)
_SCORED = frozenset({("sklearn", "LogisticRegression"), ("sklearn", "LogisticRegressionCV")})
"""Those whose other methods all call `decision_function`, with the rows as they came."""
_PROBABILITY_OBJECTIVES = frozenset({"binary:logistic", "multi:softprob"})


class Program:
    """Calls methods of an estimator on one set of rows."""

    def __init__(self, estimator: Any, methods: Sequence[str], threads: int) -> None:
        self._steps, final = _unfolded(estimator)
        self._methods = {method: _bound(final, method, threads) for method in methods}
        self._scored = final if (library_of(final), type(final).__name__) in _SCORED else None
        classes = attribute(final, "classes_")
        self._classes = classes if _predicts_likeliest(final) and isinstance(classes, np.ndarray) else None

    def __call__(self, rows: Any, methods: Sequence[str]) -> dict[str, Result]:
        """Return what each of the methods gives for the rows."""
        for transform in self._steps:
            rows = transform(rows)
        if self._scored is not None and len(methods) > 1:
            return _of_scores(self._scored, rows, methods)
        results: dict[str, Result] = {}
        for method in methods:
            if method == "predict" and self._classes is not None and "predict_proba" in methods:
                continue
            results[method] = self._methods[method](rows)
        if len(results) < len(methods) and self._classes is not None:
            results["predict"] = self._classes.take(np.argmax(results["predict_proba"], axis=1))
        return results


def _of_scores(final: Any, rows: Any, methods: Sequence[str]) -> dict[str, Result]:
    """Return what methods of a classifier give that are all made of its scores."""
    scores = final.decision_function(rows)
    scored = object.__new__(type(final))
    # The methods write into the scores that they get.
    scored.__dict__ = {**final.__dict__, "decision_function": lambda _: scores.copy()}
    return {method: getattr(scored, method)(rows) for method in methods}


def _unfolded(estimator: Any) -> tuple[list[Callable[[Any], Any]], Any]:
    """Return the transforms that an estimator begins with, and the estimator that is left."""
    from sklearn.model_selection._search import BaseSearchCV
    from sklearn.pipeline import Pipeline

    if isinstance(estimator, BaseSearchCV):
        best = attribute(estimator, "best_estimator_")
        return ([], estimator) if best is None else _unfolded(best)
    if type(estimator) is not Pipeline or not estimator.steps:
        return [], estimator
    *first, (_, last) = estimator.steps
    if last in (None, "passthrough"):
        return [], estimator
    transforms = [step.transform for _, step in first if step is not None and step != "passthrough"]
    inner, final = _unfolded(last)
    return transforms + inner, final


def _bound(final: Any, method: str, threads: int) -> Callable[[Any], Result]:
    """Return a method; CatBoost takes the number of threads with each call, others were given it before."""
    function: Callable[..., Result] = getattr(final, method)
    if library_of(final) == "catboost":
        return lambda rows: function(rows, thread_count=threads)
    return function


def _predicts_likeliest(final: Any) -> bool:
    key = (library_of(final), type(final).__name__)
    if key not in _LIKELIEST:
        return False
    if key[0] == "xgboost":
        return attribute(final, "objective") in _PROBABILITY_OBJECTIVES
    return not callable(attribute(final, "objective"))
