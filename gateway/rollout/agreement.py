"""Whether two answers to one call agree, and in how many rows.

A metric fits an output by what it holds. Integers, booleans and strings are labels, and must be the same.
A row of floats that are shares of 1 is a probability for each class: what counts is the likeliest class.
Other rows of several floats are compared by their direction (cosine), single numbers by tolerance.

NaN agrees with NaN, an infinity with the same one, and neither with anything else: a masked logit is -inf in
both answers. Of vectors, the direction of what is finite counts, once the other places agree.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from gateway.metrics.counts import limit_labels
from gateway.rollout.plan import ComparisonRules, Golden, Metric
from runtimes.base import Array

_SUM_TOLERANCE = 1e-2
_BIN = 0.5
_LABEL_LENGTH = 64
_SEVERAL = 2
# The kinds of numpy; BF16 is of kind V.
_FLOATS = "fV"
_NUMBERS = "biufV"


@dataclass(frozen=True, slots=True)
class Comparison:
    """`agreeing` is the share of rows that agree; `stable` and `canary` count the answers by label."""

    agreeing: float
    stable: Mapping[str, int] = field(default_factory=dict)
    canary: Mapping[str, int] = field(default_factory=dict)


@np.errstate(over="ignore", invalid="ignore")
def compare(stable: Mapping[str, Array], canary: Mapping[str, Array], rules: ComparisonRules) -> Comparison:
    """Compare the outputs of two versions for one call, row by row along the first axis.

    Where several outputs count, a row agrees when it does in each. Outputs whose shapes differ, or that
    one side lacks, agree in nothing.
    """
    all_agree: Array | None = None
    labels: tuple[Mapping[str, int], Mapping[str, int]] = ({}, {})
    for name in compared_outputs(stable, rules):
        expected, output = stable[name], canary.get(name)
        if output is None or expected.shape != output.shape:
            return Comparison(0.0)
        metric = metric_for(expected) if rules.metric in (Metric.AUTO, Metric.PSI) else rules.metric
        expected, output = _rows(expected), _rows(output)
        agree = _agree(expected, output, metric, rules)
        all_agree = agree if all_agree is None or len(all_agree) != len(agree) else all_agree & agree
        if rules.metric is Metric.PSI and not labels[0]:
            labels = (_count(expected, metric), _count(output, metric))
    if all_agree is None or not len(all_agree):
        return Comparison(1.0, *labels)
    return Comparison(float(all_agree.mean()), *labels)


def compared_outputs(outputs: Mapping[str, Array], rules: ComparisonRules) -> list[str]:
    """Return the outputs to compare: the rules' own, else the labels, else all; for a golden row, all."""
    if isinstance(rules, Golden):
        return list(outputs)
    if rules.output:
        return [rules.output] if rules.output in outputs else []
    labels = [name for name, array in outputs.items() if metric_for(array) is Metric.LABEL]
    if rules.metric in (Metric.AUTO, Metric.LABEL, Metric.PSI) and labels:
        return labels
    return list(outputs)


def metric_for(array: Array) -> Metric:
    """Return the metric that fits an output's values."""
    if array.dtype.kind not in _FLOATS:
        return Metric.LABEL
    if array.ndim < 2 or array.shape[-1] < _SEVERAL:
        return Metric.TOLERANCE
    rows = _rows(array).astype(np.float64)
    rows = rows[np.isfinite(rows).all(axis=1)]
    are_shares = (rows >= 0).all(axis=1) & (abs(rows.sum(axis=1) - 1) < _SUM_TOLERANCE)
    return Metric.LABEL if len(rows) and are_shares.all() else Metric.COSINE


def _rows(array: Array) -> Array:
    """Return an output as [rows, values of a row]; bytes as the strings that they are."""
    if array.dtype.kind in "OSU":
        texts = np.array([_text(item) for item in array.reshape(-1).tolist()], object)
        array = texts.reshape(array.shape)
    return array.reshape(len(array), math.prod(array.shape[1:])) if array.ndim > 1 else array.reshape(-1, 1)


def _agree(stable: Array, canary: Array, metric: Metric, rules: ComparisonRules) -> Array:
    """Return a boolean for each row. Strings are labels by any metric."""
    if metric is Metric.LABEL or stable.dtype.kind not in _NUMBERS or canary.dtype.kind not in _NUMBERS:
        return _same_labels(stable, canary)
    first, second = stable.astype(np.float64), canary.astype(np.float64)
    if metric is Metric.TOLERANCE:
        close = np.isclose(second, first, rtol=rules.rtol, atol=rules.atol, equal_nan=True)
        return np.asarray(close.all(axis=1))
    are_finite = np.isfinite(first) & np.isfinite(second)
    others_agree = (are_finite | _same(first, second)).all(axis=1)
    first, second = _directions(first, are_finite), _directions(second, are_finite)
    # Two rows of zeros point the same way; a single one points nowhere.
    point_alike = ((first * second).sum(axis=1) >= rules.cosine) | (first == second).all(axis=1)
    return np.asarray(others_agree & point_alike)


def _same(first: Array, second: Array) -> Array:
    """Return where two arrays of floats have the same number; NaN is the same as NaN."""
    return np.asarray((first == second) | (np.isnan(first) & np.isnan(second)))


def _directions(rows: Array, are_finite: Array) -> Array:
    """Return the finite part of rows as vectors of length 1, or of 0 where it is zeros."""
    rows = np.where(are_finite, rows, 0)
    # The square of a very large number would be infinite, and that of a very small one 0.
    largest = abs(rows).max(axis=1, keepdims=True, initial=0)
    rows = np.divide(rows, largest, out=np.zeros_like(rows), where=largest > 0)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(np.divide(rows, lengths, out=rows, where=lengths > 0))


def _same_labels(stable: Array, canary: Array) -> Array:
    """Return a boolean for each row: rows of several floats have the index of the largest as their label."""
    if stable.dtype.kind not in _FLOATS or canary.dtype.kind not in _FLOATS:
        return np.asarray(np.asarray(stable == canary).all(axis=1))
    first, second = stable.astype(np.float64), canary.astype(np.float64)
    if first.shape[1] < _SEVERAL:
        return np.asarray(_same(first, second).all(axis=1))
    have_same_gaps = (np.isnan(first) == np.isnan(second)).all(axis=1)
    return np.asarray(have_same_gaps & (_likeliest(first) == _likeliest(second)))


def _likeliest(rows: Array) -> Array:
    """Return the index of the largest number of each row; NaN is less than any."""
    return np.asarray(np.where(np.isnan(rows), -np.inf, rows).argmax(axis=1))


def _count(rows: Array, metric: Metric) -> Mapping[str, int]:
    """Count rows by label. Other numbers are put into bins, which are wider for larger numbers."""
    if metric is not Metric.LABEL:
        return limit_labels(Counter(_bin(value) for value in rows.astype(np.float64).reshape(-1).tolist()))
    labels = rows.reshape(-1).tolist()
    if rows.dtype.kind in _FLOATS and rows.shape[1] >= _SEVERAL:
        values = rows.astype(np.float64)
        # A row with NaN has a label of its own: what the likeliest class is in it says little.
        labels = np.where(np.isnan(values).any(axis=1), np.nan, _likeliest(values)).tolist()
        labels = [label if math.isnan(label) else int(label) for label in labels]
    return limit_labels(Counter(_text(label)[:_LABEL_LENGTH] for label in labels))


def _text(label: object) -> str:
    return label.decode("utf-8", "replace") if isinstance(label, bytes) else str(label)


def _bin(value: float) -> str:
    return f"{math.floor(math.asinh(value) / _BIN) * _BIN:g}" if math.isfinite(value) else str(value)
