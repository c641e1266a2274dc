"""Whether two answers agree, by the metric that fits them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gateway.metrics.counts import MAX_LABELS
from gateway.rollout.agreement import compare, compared_outputs, metric_for
from gateway.rollout.plan import Agreement, Golden, Metric

AUTO = Agreement()
SHARES = np.array([[0.1, 0.7, 0.2], [0.8, 0.1, 0.1]], np.float32)


@pytest.mark.parametrize(
    ("array", "metric"),
    [
        (np.array([1, 2]), Metric.LABEL),
        (np.array([True]), Metric.LABEL),
        (np.array([b"a"], object), Metric.LABEL),
        (SHARES, Metric.LABEL),
        (np.array([0.5, 1.5]), Metric.TOLERANCE),
        (np.array([[0.5], [1.5]]), Metric.TOLERANCE),
        (np.array([[3.0, -4.0, 1.0]]), Metric.COSINE),
    ],
)
def test_a_metric_is_chosen_by_what_an_output_holds(array: Any, metric: Metric) -> None:
    assert metric_for(array) is metric


def test_labels_decide_where_there_are_some() -> None:
    stable = {"scores": SHARES.astype(np.float64) * 9, "label": np.array([1, 0])}
    assert compared_outputs(stable, AUTO) == ["label"]
    assert compared_outputs(stable, Agreement(output="scores")) == ["scores"]
    assert compared_outputs(stable, Agreement(metric=Metric.TOLERANCE)) == ["scores", "label"]
    assert compare(stable, {**stable, "scores": SHARES * 0}, AUTO).agreeing == 1
    assert compare(stable, {**stable, "label": np.array([1, 2])}, AUTO).agreeing == 0.5


def test_of_probabilities_the_likeliest_class_counts() -> None:
    other = np.array([[0.3, 0.4, 0.3], [0.2, 0.5, 0.3]], np.float32)
    assert compare({"p": SHARES}, {"p": other}, AUTO).agreeing == 0.5


def test_numbers_agree_within_their_tolerance() -> None:
    rules = Agreement(metric=Metric.TOLERANCE, rtol=0.1, atol=0.01)
    stable, canary = np.array([1.0, 10.0, 0.0, np.nan]), np.array([1.05, 12.0, 0.005, np.nan])
    assert compare({"y": stable}, {"y": canary}, rules).agreeing == 0.75
    assert compare({"y": stable}, {"y": canary}, Golden("d", rtol=0.3)).agreeing == 0.75


def test_vectors_agree_when_they_point_the_same_way() -> None:
    stable = np.array([[1.0, 2.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    canary = np.array([[2.0, 4.0], [0.0, 1.0], [0.0, 0.0], [1.0, 1.0]])
    assert compare({"v": stable}, {"v": canary}, Agreement(metric=Metric.COSINE)).agreeing == 0.5


def test_a_row_agrees_when_it_does_in_every_output() -> None:
    stable = {"a": np.array([1, 2, 3, 4]), "b": np.array([b"x", b"y", b"x", b"y"], object)}
    canary = {"a": np.array([1, 2, 0, 4]), "b": np.array([b"x", b"x", b"x", b"y"], object)}
    assert compare(stable, canary, AUTO).agreeing == 0.5


@pytest.mark.parametrize("canary", [{}, {"label": np.array([1])}, {"other": np.array([1, 0])}])
def test_missing_outputs_and_other_shapes_agree_in_nothing(canary: dict[str, Any]) -> None:
    assert compare({"label": np.array([1, 0])}, canary, AUTO).agreeing == 0


def test_nothing_to_compare_is_agreement() -> None:
    empty = np.zeros((0, 3), np.float32)
    assert compare({"p": empty}, {"p": empty}, AUTO).agreeing == 1
    assert compare({"p": SHARES}, {"p": SHARES}, Agreement(output="q")).agreeing == 1


def test_labels_are_counted_for_the_distribution() -> None:
    rules = Agreement(metric=Metric.PSI)
    comparison = compare({"label": np.array([1, 1, 2])}, {"label": np.array([2, 2, 2])}, rules)
    assert (comparison.stable, comparison.canary) == ({"1": 2, "2": 1}, {"2": 3})
    comparison = compare({"p": SHARES}, {"p": SHARES}, rules)
    assert comparison.stable == {"1": 1, "0": 1}
    numbers = np.array([0.01, 0.02, 100.0, -100.0, np.inf])
    comparison = compare({"y": numbers}, {"y": numbers * 1.001}, rules)
    assert comparison.stable == comparison.canary
    assert len(comparison.stable) == 4


def test_strings_agree_however_they_came() -> None:
    stable = {"label": np.array([b"a", "b", b"c"], object)}
    assert compare(stable, {"label": np.array(["a", "b", "d"])}, AUTO).agreeing == pytest.approx(2 / 3)


def test_labels_beyond_the_bound_become_one() -> None:
    many = np.arange(MAX_LABELS + 30)
    labels = compare({"label": many}, {"label": many}, Agreement(metric=Metric.PSI)).stable
    assert len(labels) == MAX_LABELS + 1
    assert labels["other"] == 30
