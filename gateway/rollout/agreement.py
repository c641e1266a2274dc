"""Whether two answers to one call agree, and in how many rows.

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
    if array.dtype.kind not in "fV":
        return Metric.LABEL
    if array.ndim < 2 or array.shape[-1] < 2:
        return Metric.TOLERANCE
    rows = _rows(array).astype(np.float64)
    shares = bool((rows >= 0).all()) and bool((abs(rows.sum(axis=1) - 1) < _SUM_TOLERANCE).all())
    return Metric.LABEL if shares else Metric.COSINE


def _rows(array: Array) -> Array:
    """Return an output as [rows, values of a row]; bytes as the strings that they are."""
    if array.dtype.kind in "OSU":
        texts = np.array([_text(item) for item in array.reshape(-1).tolist()], object)
        array = texts.reshape(array.shape)
    return array.reshape(len(array), math.prod(array.shape[1:])) if array.ndim > 1 else array.reshape(-1, 1)


def _agree(stable: Array, canary: Array, metric: Metric, rules: ComparisonRules) -> Array:
    """Return a boolean for each row."""
    if metric is Metric.LABEL:
        return np.asarray(_rows(np.asarray(_labels(stable) == _labels(canary))).all(axis=1))
    first, second = stable.astype(np.float64), canary.astype(np.float64)
    if metric is Metric.TOLERANCE:
        close = np.isclose(second, first, rtol=rules.rtol, atol=rules.atol, equal_nan=True)
        return np.asarray(close.all(axis=1))
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    # Two rows of zeros point the same way; a single one points nowhere.
    cosine = np.divide((first * second).sum(axis=1), norms, out=np.zeros(len(first)), where=norms > 0)
    are_zeros = ~first.any(axis=1) & ~second.any(axis=1)
    return np.asarray((cosine >= rules.cosine) | are_zeros)


def _labels(rows: Array) -> Array:
    """Return the labels as they are; of rows of floats, the index of the largest."""
    return rows.argmax(axis=1) if rows.dtype.kind in "fV" and rows.shape[1] > 1 else rows


def _count(rows: Array, metric: Metric) -> Mapping[str, int]:
    """Count rows by label. Other numbers are put into bins, which are wider for larger numbers."""
    if metric is Metric.LABEL:
        counts = Counter(
            _text(label)[:_LABEL_LENGTH] for label in np.asarray(_labels(rows)).reshape(-1).tolist()
        )
    else:
        values = rows.astype(np.float64).reshape(-1).tolist()
        counts = Counter(_bin(value) for value in values)
    return limit_labels(counts)


def _text(label: object) -> str:
    return label.decode("utf-8", "replace") if isinstance(label, bytes) else str(label)


def _bin(value: float) -> str:
    return f"{math.floor(math.asinh(value) / _BIN) * _BIN:g}" if math.isfinite(value) else str(value)
