"""Whether two answers to one call agree, and how many rows of them do.

A metric fits an output by what it holds. Integers, booleans and strings are labels, and must be the same.
A row of floats that are shares of 1 is a probability for each class: what counts is the likeliest class.
Other rows of several floats are compared by their direction (cosine), single numbers by tolerance.
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


@dataclass(frozen=True, slots=True)
class Comparison:
    """`agreeing` is the share of rows that agree; `stable` and `canary` count the answers by label."""

    agreeing: float
    stable: Mapping[str, int] = field(default_factory=dict)
    canary: Mapping[str, int] = field(default_factory=dict)


def compare(stable: Mapping[str, Array], canary: Mapping[str, Array], rules: ComparisonRules) -> Comparison:
    """Compare the outputs of two versions for one call, row by row along the first axis.

    Where several outputs count, a row agrees when it does in each. Outputs whose shapes differ, or that
    one side lacks, agree in nothing.
    """
    agreeing: Array | None = None
    labels: tuple[Mapping[str, int], Mapping[str, int]] = ({}, {})
    for name in outputs_that_count(stable, rules):
        one, two = stable[name], canary.get(name)
        if two is None or one.shape != two.shape:
            return Comparison(0.0)
        metric = fitting(one) if rules.metric in (Metric.AUTO, Metric.PSI) else rules.metric
        one, two = _rows(one), _rows(two)
        same = _agree(one, two, metric, rules)
        agreeing = same if agreeing is None or len(agreeing) != len(same) else agreeing & same
        if rules.metric is Metric.PSI and not labels[0]:
            labels = (_count(one, metric), _count(two, metric))
    if agreeing is None or not len(agreeing):
        return Comparison(1.0, *labels)
    return Comparison(float(agreeing.mean()), *labels)


def outputs_that_count(outputs: Mapping[str, Array], rules: ComparisonRules) -> list[str]:
    """The outputs to compare: the one that is named, else the labels, else all; all that are expected."""
    if isinstance(rules, Golden):
        return list(outputs)
    if rules.output:
        return [rules.output] if rules.output in outputs else []
    labels = [name for name, array in outputs.items() if fitting(array) is Metric.LABEL]
    if rules.metric in (Metric.AUTO, Metric.LABEL, Metric.PSI) and labels:
        return labels
    return list(outputs)


def fitting(array: Array) -> Metric:
    """The metric that fits an output's values."""
    if array.dtype.kind not in "fV":
        return Metric.LABEL
    if array.ndim < 2 or array.shape[-1] < 2:
        return Metric.TOLERANCE
    rows = _rows(array).astype(np.float64)
    shares = bool((rows >= 0).all()) and bool((abs(rows.sum(axis=1) - 1) < _SUM_TOLERANCE).all())
    return Metric.LABEL if shares else Metric.COSINE


def _rows(array: Array) -> Array:
    """The output as [rows, values of a row]; strings as such, however they came."""
    if array.dtype.kind in "OSU":
        texts = np.array([_text(item) for item in array.reshape(-1).tolist()], object)
        array = texts.reshape(array.shape)
    return array.reshape(len(array), math.prod(array.shape[1:])) if array.ndim > 1 else array.reshape(-1, 1)


def _agree(one: Array, two: Array, metric: Metric, rules: ComparisonRules) -> Array:
    """Return a boolean for each row."""
    if metric is Metric.LABEL:
        return np.asarray(_rows(np.asarray(_labels(one) == _labels(two))).all(axis=1))
    first, second = one.astype(np.float64), two.astype(np.float64)
    if metric is Metric.TOLERANCE:
        close = np.isclose(second, first, rtol=rules.rtol, atol=rules.atol, equal_nan=True)
        return np.asarray(close.all(axis=1))
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    # Two rows of nothing point the same way; one of nothing points nowhere.
    cosine = np.divide((first * second).sum(axis=1), norms, out=np.zeros(len(first)), where=norms > 0)
    nothing = ~first.any(axis=1) & ~second.any(axis=1)
    return np.asarray((cosine >= rules.cosine) | nothing)


def _labels(rows: Array) -> Array:
    """Labels are themselves; of rows of floats, the place of the largest."""
    return rows.argmax(axis=1) if rows.dtype.kind in "fV" and rows.shape[1] > 1 else rows


def _count(rows: Array, metric: Metric) -> Mapping[str, int]:
    """How many rows have which label. Other numbers are put into bins, whose width grows with them."""
    if metric is Metric.LABEL:
        found = Counter(
            _text(label)[:_LABEL_LENGTH] for label in np.asarray(_labels(rows)).reshape(-1).tolist()
        )
    else:
        values = rows.astype(np.float64).reshape(-1).tolist()
        found = Counter(_bin(value) for value in values)
    return limit_labels(found)


def _text(label: object) -> str:
    return label.decode("utf-8", "replace") if isinstance(label, bytes) else str(label)


def _bin(value: float) -> str:
    return f"{math.floor(math.asinh(value) / _BIN) * _BIN:g}" if math.isfinite(value) else str(value)
