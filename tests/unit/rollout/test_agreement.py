"""Whether two answers agree, by the metric that fits them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gateway.metrics.counts import MAX_LABELS
from gateway.rollout.agreement import compare, compared_outputs, metric_for
from gateway.rollout.plan import Agreement, Golden, Metric
from runtimes.base import Datatype

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


NAN, INF = np.nan, np.inf
DATATYPES = ["FP16", "BF16", "FP32", "FP64"]
NON_FINITE = {
    "masked logits": [[1.5, -INF, 3.0, -INF], [-2.0, 0.5, -INF, -INF]],
    "NaN": [[1.5, NAN, 3.0, 4.0], [1.0, 2.0, 3.0, NAN]],
    "infinities": [[INF, -INF, 1.0, 0.0], [0.0, 0.0, INF, INF]],
    "nothing finite": [[NAN, INF, -INF, NAN], [-INF, -INF, -INF, -INF]],
    "all NaN": [[NAN] * 4] * 2,
    "shares and NaN": [[0.25, 0.5, 0.125, 0.125], [NAN] * 4],
    "single numbers": [[NAN], [-INF]],
    "one axis": [NAN, -INF, 2.0],
}


def of(values: Any, datatype: str = "FP64") -> dict[str, Any]:
    return {"y": np.array(values, np.float64).astype(Datatype(datatype).numpy)}


@pytest.mark.parametrize("metric", Metric)
@pytest.mark.parametrize("datatype", DATATYPES)
@pytest.mark.parametrize("values", NON_FINITE.values(), ids=NON_FINITE)
def test_equal_answers_agree_whatever_they_hold(metric: Metric, datatype: str, values: Any) -> None:
    answers = of(values, datatype)
    comparison = compare(answers, of(values, datatype), Agreement(metric=metric))
    assert comparison.agreeing == 1
    assert comparison.stable == comparison.canary
    assert compare(answers, of(values, datatype), Golden("d", metric=metric)).agreeing == 1


@pytest.mark.parametrize("metric", [Metric.AUTO, Metric.TOLERANCE, Metric.COSINE])
@pytest.mark.parametrize("datatype", DATATYPES)
@pytest.mark.parametrize("there", [NAN, INF, -INF, 1.0])
@pytest.mark.parametrize("other", [NAN, INF, -INF, 1.0])
def test_each_number_that_is_not_finite_agrees_with_itself_alone(
    metric: Metric, datatype: str, there: float, other: float
) -> None:
    expected = float(there == other or (np.isnan(there) and np.isnan(other)))
    for stable, canary in (
        ([[2.0, 3.0, there]], [[2.0, 3.0, other]]),
        ([[there, there]], [[there, other]]),
        ([[there]], [[other]]),
        ([there], [other]),
    ):
        agreeing = compare(of(stable, datatype), of(canary, datatype), Agreement(metric=metric)).agreeing
        assert agreeing == expected, (stable, canary)


def test_the_finite_part_of_vectors_decides_once_the_rest_agrees() -> None:
    stable = [[1.0, 2.0, -INF, NAN], [1.0, 0.0, -INF, NAN], [0.0, 0.0, INF, INF], [0.0, 0.0, INF, INF]]
    canary = [[2.0, 4.0, -INF, NAN], [0.0, 1.0, -INF, NAN], [0.0, 0.0, INF, INF], [1.0, 0.0, INF, INF]]
    assert compare(of(stable), of(canary), Agreement(metric=Metric.COSINE)).agreeing == 0.5


def test_a_few_rows_without_numbers_do_not_change_the_metric() -> None:
    assert metric_for(np.array([[0.5, 0.5], [NAN, NAN]])) is Metric.LABEL
    assert metric_for(np.array([[0.5, 1.5], [NAN, NAN]])) is Metric.COSINE
    assert metric_for(np.array([[NAN, NAN], [INF, 1.0]])) is Metric.COSINE


def test_labels_are_of_the_numbers_that_are_there() -> None:
    rules = Agreement(metric=Metric.LABEL)
    masked = of([[1.0, -INF, 3.0], [NAN, 5.0, 1.0]])
    assert compare(masked, of([[0.0, 1.0, 2.0], [NAN, 2.0, 1.0]]), rules).agreeing == 1
    assert compare(masked, of([[9.0, -INF, 3.0], [9.0, 5.0, 1.0]]), rules).agreeing == 0
    assert compare(masked, of([[1.0, NAN, 3.0], [NAN, 5.0, INF]]), rules).agreeing == 0


def test_populations_count_what_is_no_number_as_one_label() -> None:
    rules = Agreement(metric=Metric.PSI)
    stable, canary = of([[0.5, 0.5], [0.1, 0.9], [NAN, NAN]]), of([[0.5, NAN], [0.1, 0.9], [NAN, NAN]])
    comparison = compare(stable, canary, rules)
    assert comparison.stable == {"0": 1, "1": 1, "nan": 1}
    assert comparison.canary == {"1": 1, "nan": 2}
    comparison = compare(of([NAN, INF, -INF, 1.0]), of([NAN, NAN, -INF, 1.0]), rules)
    assert comparison.stable == {"nan": 1, "inf": 1, "-inf": 1, "0.5": 1}
    assert comparison.canary == {"nan": 2, "-inf": 1, "0.5": 1}


@pytest.mark.parametrize("size", [1e-200, 1e-320, 1e200, 1.7e308])
@pytest.mark.parametrize("metric", [Metric.COSINE, Metric.TOLERANCE, Metric.AUTO])
def test_very_large_and_small_vectors_have_a_direction(size: float, metric: Metric) -> None:
    vectors = np.array([[1.0, -1.0, 0.5], [0.0, 1.0, 0.0]]) * size
    rules = Agreement(metric=metric, cosine=1.0, atol=0)
    assert compare({"y": vectors}, {"y": vectors.copy()}, rules).agreeing == 1
    assert compare({"y": vectors}, {"y": -vectors}, rules).agreeing == 0


@pytest.mark.parametrize("metric", Metric)
def test_strings_are_labels_by_any_metric(metric: Metric) -> None:
    stable = {"label": np.array([[b"a"], [b"b"]], object), "y": np.array([1.0, 2.0])}
    canary = {"label": np.array([[b"a"], [b"c"]], object), "y": np.array([1.0, 2.0])}
    assert compare(stable, stable, Agreement(metric=metric)).agreeing == 1
    assert compare(stable, canary, Agreement(metric=metric)).agreeing == 0.5


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
