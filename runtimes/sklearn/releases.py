"""Fitted estimators that a later release of scikit-learn loads, and reads otherwise than they were meant.

Most changes of a release fail aloud. These are the ones that give other answers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from runtimes.sklearn.nested import all_within, attribute, library_of, members_of


def changed_meaning(estimator: Any) -> str:
    """Return the class that the installed release would read otherwise, "" where none is known."""
    for part in all_within(estimator):
        name = type(part).__name__
        members = members_of(part)
        if library_of(part) == "sklearn" and _is_read_otherwise(name, part, members):
            return name
    return ""


def _is_read_otherwise(name: str, part: Any, members: dict[str, Any]) -> bool:
    if name in ("DecisionTreeClassifier", "ExtraTreeClassifier"):
        # Up to 1.3, a leaf had the weight of each class, and since then its share.
        values = attribute(members.get("tree_"), "value")
        return isinstance(values, np.ndarray) and not np.allclose(values[0].sum(axis=1), 1, atol=1e-4)
    if name in ("TfidfTransformer", "TfidfVectorizer"):
        # A matrix, and since 1.5 a vector, without which the words have no weights.
        inner = members_of(members.get("_tfidf")) if name == "TfidfVectorizer" else members
        return "_idf_diag" in inner and "idf_" not in inner
    if name == "AdaBoostClassifier":
        # The only algorithm since 1.6 is the other one.
        return members.get("algorithm") == "SAMME.R" and "algorithm" not in _parameters(part)
    if name in ("LogisticRegression", "LogisticRegressionCV") and "multi_class" in members:
        return "multi_class" not in _parameters(part) and _had_other_probabilities(members)
    return False


def _parameters(part: Any) -> list[str]:
    names: list[str] = type(part)._get_param_names()
    return names


def _had_other_probabilities(members: dict[str, Any]) -> bool:
    """Whether the probabilities of a logistic regression were not those of its number of classes (1.8)."""
    kind, is_binary = members["multi_class"], len(members.get("classes_", ())) <= 2
    is_automatic = kind in ("auto", "deprecated")
    one_by_one = kind == "ovr" or (is_automatic and (is_binary or members.get("solver") == "liblinear"))
    return one_by_one != is_binary
