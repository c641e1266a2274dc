"""What scipy believes of encoders and vectorisers: the columns that they write into sparse answers.

scipy looks at no index of a matrix that scikit-learn makes, and writes wherever it leads.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from runtimes.pickles.refusals import Refused


def check_one_hot(encoder: Any) -> None:
    """Check that no category of a OneHotEncoder has a column beyond those of its feature."""
    values = vars(encoder)
    categories, widths = values.get("categories_"), values.get("_n_features_outs")
    if categories is None or widths is None:
        return
    mappings = values.get("_default_to_infrequent_mappings") if values.get("_infrequent_enabled") else None
    dropped = values.get("_drop_idx_after_grouping")
    sizes = [len(categories), *(len(part) for part in (mappings, dropped) if part is not None)]
    if type(widths) is not list or set(sizes) != {len(widths)}:
        raise Refused("an encoder has other categories than features")
    for position, (known, width) in enumerate(zip(categories, widths, strict=True)):
        _check_order(known)
        count = len(known)
        if mappings is not None and mappings[position] is not None:
            mapping = np.asarray(mappings[position])
            if mapping.shape != (count,) or mapping.dtype.kind not in "iu" or not count or mapping.min() < 0:
                raise Refused("an encoder has rare categories that are none")
            count = int(mapping.max()) + 1
        if dropped is not None and (drop := dropped[position]) is not None:
            if not 0 <= drop < count:
                raise Refused("an encoder drops a category that it has not")
            count -= 1
        if width != count:
            raise Refused("an encoder has other categories than columns")


def _check_order(known: Any) -> None:
    """Check that numbers, which are found by halves, are in order; NaN is the last."""
    if not isinstance(known, np.ndarray) or known.ndim != 1:
        raise Refused("an encoder has categories that are none")
    if known.dtype.kind in "biuf":
        numbers = known[:-1] if known.dtype.kind == "f" and len(known) and np.isnan(known[-1]) else known
        if not (numbers[1:] > numbers[:-1]).all():
            raise Refused("an encoder has categories out of order")


def check_vocabulary(vectorizer: Any) -> None:
    """Check that the words of a vectoriser have columns within its answer."""
    vocabulary = vectorizer.vocabulary_
    if not isinstance(vocabulary, dict):
        raise Refused("a vocabulary is no dict")
    columns = np.fromiter(vocabulary.values(), np.int64, len(vocabulary))
    if len(columns) and not 0 <= columns.min() <= columns.max() < len(columns):
        raise Refused("a vocabulary has a word outside of it")
