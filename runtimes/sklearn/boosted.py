"""What estimators of XGBoost, LightGBM and CatBoost say of their columns: which are categories, and which.

XGBoost and LightGBM take categories as pandas columns of dtype `category`, CatBoost as strings or integers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from runtimes.base import Datatype
from runtimes.errors import LoadError
from runtimes.sklearn.nested import attribute, library_of

Changes = dict[str, Any]


def boosted_columns(estimator: Any) -> list[Changes] | None:
    """Return what is known of each column, as members of a `Column`; None for another library's estimator.

    Raises LoadError where a column can come in no call.
    """
    readers = {"xgboost": _of_xgboost, "lightgbm": _of_lightgbm, "catboost": _of_catboost}
    find = readers.get(library_of(estimator))
    return None if find is None else find(estimator)


def _of_xgboost(estimator: Any) -> list[Changes]:
    booster = estimator.get_booster()
    kinds: Sequence[str] = booster.feature_types or ()
    columns: list[Changes] = [{"datatype": Datatype.BOOL} if kind == "i" else {} for kind in kinds]
    if "c" not in kinds:
        return columns
    model = json.loads(booster.save_raw("json"))["learner"]["gradient_booster"]
    encodings = model.get("model", model).get("cats", {}).get("enc", ())
    for position, (kind, encoding) in enumerate(zip(kinds, encodings, strict=False)):
        if kind == "c" and (categories := xgboost_categories(encoding)):
            columns[position] = {"categories": tuple(categories)}
    return columns


def xgboost_categories(encoding: dict[str, Any]) -> list[Any]:
    """Return the categories in a member of `cats.enc` of XGBoost's JSON (3.1); [] where there are none.

    Strings are one run of UTF-8 bytes, and where each begins and the last ends; numbers are as they are.
    """
    values, offsets = encoding.get("values", []), encoding.get("offsets")
    if offsets is None:
        return list(values)
    text = bytes(value & 0xFF for value in values)
    return [text[begin:end].decode() for begin, end in pairwise(offsets)]


def _of_lightgbm(estimator: Any) -> list[Changes]:
    booster = estimator.booster_
    categories = booster.pandas_categorical or []
    columns: list[Changes] = [{} for _ in range(booster.num_feature())]
    if not categories:
        return columns
    head = booster.model_to_string(num_iteration=1)
    infos = next(line for line in head.splitlines() if line.startswith("feature_infos=")).partition("=")[2]
    chosen = [position for position, info in enumerate(infos.split()) if info[0] not in "[n"]
    if len(chosen) != len(categories):
        raise LoadError(
            f"its LGBM model has {len(categories)} columns of categories, and does not say which of them; "
            "one of them has a single category: leave it out, and fit the model again"
        )
    for position, values in zip(chosen, categories, strict=True):
        columns[position] = {"categories": tuple(values)}
    return columns


def _of_catboost(estimator: Any) -> list[Changes]:
    if attribute(estimator, "get_embedding_feature_indices") and estimator.get_embedding_feature_indices():
        raise LoadError("its CatBoost model takes embeddings, and calls have tables")
    columns: list[Changes] = [{} for _ in estimator.feature_names_]
    # It hashes the text of a category, so that an integer and its digits are the same.
    for position in (*estimator.get_cat_feature_indices(), *estimator.get_text_feature_indices()):
        columns[position] = {"datatype": Datatype.BYTES, "values": ("0",)}
    return columns
