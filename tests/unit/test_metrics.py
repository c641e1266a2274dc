from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields, replace

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from gateway.gpus.devices import THROTTLE_REASONS, Gpu, Gpus
from gateway.metrics.control_plane import ControlPlaneSample
from gateway.metrics.counts import BUCKETS, MAX_LABELS, MIRRORED, Histogram, MirroredCalls, Runs
from gateway.metrics.declarations import Kind
from gateway.metrics.edge_numbers import EdgeNumbers
from gateway.metrics.exposition import METRICS, KitserveCollector, Scrape
from gateway.metrics.machine import MachineMemory
from gateway.metrics.pairs import AnswerPairs
from gateway.metrics.rollouts import RolloutSample
from gateway.metrics.system import (
    EdgeSample,
    KeyNumbers,
    ModelSample,
    PayloadNumbers,
    SpanNumbers,
    SystemSample,
)
from gateway.metrics.tally import Numbers, Tally
from gateway.metrics.tokens import Tokens
from gateway.metrics.versions import VersionLabels, VersionSample

AT = {"model": "iris", "version": "v1", "digest": "0123456789ab", "runtime": "onnx"}
EDGE = EdgeNumbers(Counter({("worker", "2xx"): 9, ("edge", "5xx"): 3}), Counter(connect=4), 2, 1, 5)
ROLLOUT = RolloutSample(
    {"Healthy": False, "Degraded": True},
    "AnalysisFailed",
    number=2,
    step=1,
    steps=3,
    held_seconds=12.5,
    mirrored_ratio=0.25,
    verdicts={"errors": {"Successful": False, "Failed": True}},
    units={"errors": {"callers": 41, "pairs": 96}},
)
GIB = 1 << 30
CONTROL_PLANE = ControlPlaneSample(
    started=1000.0,
    reconciled=2000.0,
    failed_ticks=1,
    state_errors=2,
    generation=7,
    observed_generation=6,
    log_lines={("warning", "webhook.failed"): 4},
    certificate_ends={"listen": 3000.0},
    disk=(100 * GIB, 40 * GIB),
    memory=MachineMemory(16 * GIB, 4 * GIB),
    gpus=Gpus(
        (
            Gpu(
                0,
                "GPU-1",
                "",
                80 * GIB,
                72 * GIB,
                0.5,
                power=350.0,
                power_limit=400.0,
                throttle_reasons=("sw_power_cap",),
            ),
            Gpu(1, "GPU-2"),
        )
    ),
)
SYSTEM = SystemSample(
    (
        ModelSample("iris", {"ready": True, "failed": False}, ROLLOUT, 3),
        ModelSample("wine", {"ready": False, "failed": True}),
    ),
    EdgeSample(
        True,
        {"2xx": 9, "5xx": 3},
        {"wine": 6},
        4,
        {"ci": KeyNumbers(7, {"rate": 2}), "": KeyNumbers(3, {"unknown": 3})},
        {"connection": 5, "call": 0},
        8192,
    ),
    {"gateway": 100, "edge": 50},
    {"iris": PayloadNumbers(8, 2)},
    SpanNumbers(sent=9, failed=2, dropped=1),
)


def counts(histogram: Histogram) -> dict[str, float]:
    """The buckets that have something, not cumulated."""
    bounds = [*map(str, histogram.bounds), "+Inf"]
    return {bound: count for bound, count in zip(bounds, histogram.counts, strict=True) if count}


@pytest.fixture
def tally() -> Tally:
    tally = Tally()
    tally.answered("stable", 200, request=0.002, queue=0.0002, compute=0.0005)
    tally.answered("stable", 200, request=60.0, queue=0.0, compute=0.001)
    tally.answered("canary", 500, request=0.3, queue=0.0001, compute=0.2)
    tally.refused("stable", 413)
    tally.opened(pulled_bytes=1000, from_cache=False, unpack_seconds=1.5)
    tally.opened(pulled_bytes=0, from_cache=True, unpack_seconds=0.0)
    tally.loaded(2.5)
    tally.executed(1, decode=0.1, infer=0.2, encode=0.3)
    tally.executed(4, decode=0.5, infer=0.25, encode=0.5)
    tally.executed(4, decode=0.5, infer=0.25, encode=0.5)
    tally.executed(5000, decode=1.0, infer=1.0, encode=1.0)
    tally.dropped("rejected")
    tally.dropped("cancelled")
    tally.dropped("rejected")
    tally.failed_to("pull")
    tally.generated("stable", tokens(20.0, gaps=(0.02, 0.03), prompt=9, cached=4, output=3))
    tally.generated("stable", tokens(0.25, gaps=(0.2,), prompt=5, output=2))
    tally.generated("canary", tokens(1000.0, prompt=1, output=1))
    tally.generated(MIRRORED, tokens(0.004, prompt=7, output=1))
    return tally


def tokens(
    first: float, gaps: tuple[float, ...] = (), prompt: int = 0, cached: int = 0, output: int = 0
) -> Tokens:
    """Return what a call counts whose first token came after `first` seconds, the others after the gaps."""
    counted = Tokens(input=prompt, cached=cached, output=output)
    counted.first.observe(first)
    for gap in gaps:
        counted.between.observe(gap)
    return counted


def test_a_tally_counts(tally: Tally) -> None:
    numbers = tally.numbers()
    assert numbers.requests == {("stable", 200): 2, ("canary", 500): 1, ("stable", 413): 1}
    assert counts(numbers.request) == {"0.0025": 1, "0.5": 1, "+Inf": 1}
    assert counts(numbers.queue) == {"0.0001": 2, "0.00025": 1}
    assert counts(numbers.compute) == {"0.0005": 1, "0.001": 1, "0.25": 1}
    assert numbers.request.total == pytest.approx(60.302)
    assert (numbers.succeeded.calls, numbers.failed.calls) == (2, 2)
    assert numbers.succeeded.total == pytest.approx(60.002)
    assert numbers.failed.total == 0.3
    assert (numbers.pulled_bytes, numbers.cache_hits) == (1000, 1)
    assert (numbers.unpacks, numbers.unpack_seconds) == (1, 1.5)
    assert (numbers.loads, numbers.load_seconds) == (1, 2.5)


def test_the_steps_of_a_call_add_up() -> None:
    tally = Tally()
    tally.answered("", 200, request=1.0, queue=0.1, compute=0.8, infer=0.5, encode=0.2)
    steps = Numbers().succeeded
    for _ in range(2):
        steps.add(tally.numbers().succeeded)
    assert (steps.calls, steps.total, steps.queue) == (2, 2.0, 0.2)
    assert (steps.infer, steps.encode) == (1.0, 0.4)
    assert steps.decode == pytest.approx(0.2)


def test_numbers_that_were_read_stay_as_they_are(tally: Tally) -> None:
    before = tally.numbers()
    tally.answered("stable", 200, request=0.1, queue=0.1, compute=0.1)
    before.requests["other", 200] += 1
    assert before.requests["stable", 200] == 2
    assert sum(before.request.counts) == 3
    after = tally.numbers()
    assert ("other", 200) not in after.requests
    assert sum(after.request.counts) == 4


def test_buckets_are_cumulative_and_bounds_are_inclusive() -> None:
    histogram = Histogram()
    for seconds in (0.0, BUCKETS[0], BUCKETS[3], BUCKETS[-1], BUCKETS[-1] + 1):
        histogram.observe(seconds)
    buckets = histogram.cumulative()
    assert [bound for bound, _ in buckets] == [*map(str, BUCKETS), "+Inf"]
    assert [count for _, count in buckets] == [2, 2, 2, *[3] * (len(BUCKETS) - 4), 4, 5]


def test_numbers_of_workers_add_up(tally: Tally) -> None:
    total = Numbers()
    for _ in range(3):
        total.add(tally.numbers())
    assert total.requests == {("stable", 200): 6, ("canary", 500): 3, ("stable", 413): 3}
    for part in ("request", "queue", "compute"):
        one: Histogram = getattr(tally.numbers(), part)
        three: Histogram = getattr(total, part)
        assert three.counts == [3 * count for count in one.counts]
        assert three.total == pytest.approx(3 * one.total)
    assert (total.pulled_bytes, total.cache_hits, total.unpacks, total.unpack_seconds) == (3000, 3, 3, 4.5)
    assert (total.loads, total.load_seconds) == (3, 7.5)
    assert total.dropped == {"rejected": 6, "cancelled": 3}
    assert {rows: runs.runs for rows, runs in total.batches.items()} == {1: 3, 4: 6, 8192: 3}


def test_numbers_travel_between_processes(tally: Tally) -> None:
    there = pickle.loads(pickle.dumps(tally.numbers()))
    assert there.requests == tally.numbers().requests
    assert there.request.counts == tally.numbers().request.counts
    assert there.unpack_seconds == 1.5


def scrape(
    *samples: VersionSample,
    system: SystemSample | None = None,
    control_plane: ControlPlaneSample | None = None,
) -> dict[str, Metric]:
    registry = CollectorRegistry()
    registry.register(KitserveCollector(lambda: Scrape(samples, system or SystemSample(), control_plane)))
    text = generate_latest(registry).decode()
    families = list(text_string_to_metric_families(text))
    series = [
        (sample.name, frozenset(sample.labels.items())) for family in families for sample in family.samples
    ]
    assert len(series) == len(set(series)), "no series is there twice"
    return {family.name: family for family in families}


def values(family: Metric, name: str = "") -> Iterator[tuple[dict[str, str], float]]:
    """The samples' own labels and values."""
    for sample in family.samples:
        if sample.name == (name or family.name):
            assert {key: value for key, value in sample.labels.items() if key in AT} == AT
            yield {key: value for key, value in sample.labels.items() if key not in AT}, sample.value


def test_mirrored_calls_are_counted_apart() -> None:
    tally = Tally()
    tally.answered(MIRRORED, 200, request=9.0, queue=9.0, compute=9.0)
    tally.refused(MIRRORED, 503)
    tally.compared(0.5, False, {"a": 1}, {"b": 1})
    tally.compared(0.0, True, {}, {})
    tally.not_mirrored()
    numbers = tally.numbers()
    assert numbers.requests == {(MIRRORED, 200): 1, (MIRRORED, 503): 1}
    assert sum(numbers.request.counts) == numbers.succeeded.calls == numbers.failed.calls == 0
    assert numbers.mirrored == MirroredCalls(2, 0.5, 1, 1, Counter(a=1), Counter(b=1))
    numbers.add(numbers)
    assert numbers.mirrored == MirroredCalls(4, 1.0, 2, 2, Counter(a=2), Counter(b=2))
    family = scrape(VersionSample(VersionLabels(**AT), tally.numbers()))["kitserve_mirrored_requests"]
    outcomes = {
        labels["outcome"]: value for labels, value in values(family, "kitserve_mirrored_requests_total")
    }
    assert outcomes == {"compared": 2, "agreeing": 0.5, "failed": 1, "dropped": 1}


def test_counts_of_mirrored_calls_add_up_and_are_taken_away_again() -> None:
    one = MirroredCalls(3, 2.5, 1, 4, {"a": 2, "b": 1}, {"a": 3})
    two = MirroredCalls(2, 1.0, 0, 1, {"b": 1, "c": 1}, {"d": 2})
    total = MirroredCalls(5, 3.5, 1, 5, {"a": 2, "b": 2, "c": 1}, {"a": 3, "d": 2})
    assert one + two == total
    assert (total - two, total - one) == (one, two)
    assert total - total == MirroredCalls()


def test_labels_beyond_the_bound_are_counted_together() -> None:
    tally = Tally()
    for label in range(MAX_LABELS + 30):
        tally.compared(1.0, False, {str(label): 1}, {"same": 1})
    mirrored = tally.numbers().mirrored
    assert len(mirrored.stable) == MAX_LABELS + 1
    assert (mirrored.stable["0"], mirrored.stable["other"]) == (1, 30)
    assert mirrored.canary == {"same": MAX_LABELS + 30}


def test_what_prometheus_reads(tally: Tally) -> None:
    replicas, weights = {"ready": 2, "loading": 1}, {"canary": 20}
    sample = VersionSample(VersionLabels(**AT), tally.numbers(), 4, replicas, weights, queued=3, held=2)
    families = scrape(sample)
    assert {name: family.type for name, family in families.items()} == {
        "kitserve_build_info": "gauge",
        "kitserve_requests": "counter",
        "kitserve_request_duration_seconds": "histogram",
        "kitserve_queue_duration_seconds": "histogram",
        "kitserve_compute_duration_seconds": "histogram",
        "kitserve_requests_in_flight": "gauge",
        "kitserve_queue_length": "gauge",
        "kitserve_requests_waiting_to_wake": "gauge",
        "kitserve_requests_dropped": "counter",
        "kitserve_batch_size": "histogram",
        "kitserve_time_to_first_token_seconds": "histogram",
        "kitserve_inter_token_seconds": "histogram",
        "kitserve_time_per_output_token_seconds": "histogram",
        "kitserve_tokens": "counter",
        "kitserve_requests_generating": "gauge",
        "kitserve_kv_cache_usage_ratio": "gauge",
        "kitserve_pulled_bytes": "counter",
        "kitserve_cache_hits": "counter",
        "kitserve_unpack_duration_seconds": "summary",
        "kitserve_mirrored_requests": "counter",
        "kitserve_load_duration_seconds": "summary",
        "kitserve_replicas": "gauge",
        "kitserve_traffic_weight_ratio": "gauge",
        "kitserve_load_failures": "counter",
        "kitserve_worker_restarts": "counter",
        "kitserve_worker_resident_memory_bytes": "gauge",
        "kitserve_worker_gpu_memory_used_bytes": "gauge",
        "kitserve_edge_responses": "counter",
        "kitserve_edge_errors": "counter",
        "kitserve_edge_retries": "counter",
        "kitserve_edge_redispatches": "counter",
        "kitserve_edge_queue_length": "gauge",
        "kitserve_worker_memory_limit_bytes": "gauge",
        "kitserve_uncontained_workers": "gauge",
        "kitserve_refused_bodies": "counter",
        "kitserve_worker_log_lines": "counter",
        "kitserve_model_state": "gauge",
        "kitserve_model_retries": "gauge",
        "kitserve_edge_up": "gauge",
        "kitserve_edge_connections": "gauge",
        "kitserve_edge_max_connections": "gauge",
        "kitserve_edge_rejected": "counter",
        "kitserve_edge_unavailable_responses": "counter",
        "kitserve_edge_client_responses": "counter",
        "kitserve_key_calls": "counter",
        "kitserve_key_refused_calls": "counter",
        "kitserve_payload_records": "counter",
        "kitserve_process_resident_memory_bytes": "gauge",
        "kitserve_rollout_phase": "gauge",
        "kitserve_rollout_reason": "gauge",
        "kitserve_rollouts": "counter",
        "kitserve_rollout_step": "gauge",
        "kitserve_rollout_steps": "gauge",
        "kitserve_rollout_held_seconds": "gauge",
        "kitserve_rollout_mirrored_ratio": "gauge",
        "kitserve_rollout_verdict": "gauge",
        "kitserve_rollout_units": "gauge",
        "kitserve_trace_spans": "counter",
    }
    assert all(family.documentation for family in families.values())
    assert list(values(families["kitserve_requests"], "kitserve_requests_total")) == [
        ({"role": "canary", "status": "500"}, 1),
        ({"role": "stable", "status": "200"}, 2),
        ({"role": "stable", "status": "413"}, 1),
    ]
    assert list(values(families["kitserve_requests_in_flight"])) == [({}, 4)]
    assert list(values(families["kitserve_queue_length"])) == [({}, 3)]
    assert list(values(families["kitserve_requests_waiting_to_wake"])) == [({}, 2)]
    assert list(values(families["kitserve_requests_dropped"], "kitserve_requests_dropped_total")) == [
        ({"reason": "rejected"}, 2),
        ({"reason": "expired"}, 0),
        ({"reason": "cancelled"}, 1),
        ({"reason": "deadly"}, 0),
    ]
    assert list(values(families["kitserve_pulled_bytes"], "kitserve_pulled_bytes_total")) == [({}, 1000)]
    assert list(values(families["kitserve_cache_hits"], "kitserve_cache_hits_total")) == [({}, 1)]
    assert list(values(families["kitserve_replicas"])) == [({"state": "ready"}, 2), ({"state": "loading"}, 1)]
    assert list(values(families["kitserve_traffic_weight_ratio"])) == [({"role": "canary"}, 0.2)]
    for part, seconds in (("unpack", 1.5), ("load", 2.5)):
        family = families[f"kitserve_{part}_duration_seconds"]
        assert list(values(family, f"{family.name}_count")) == [({}, 1)]
        assert list(values(family, f"{family.name}_sum")) == [({}, seconds)]
    (build,) = families["kitserve_build_info"].samples
    assert build.value == 1
    assert set(build.labels) == {"version", "python", "ray"}


@pytest.mark.parametrize(("part", "total"), [("request", 60.302), ("queue", 0.0003), ("compute", 0.2015)])
def test_what_prometheus_reads_of_durations(tally: Tally, part: str, total: float) -> None:
    families = scrape(VersionSample(VersionLabels(**AT), tally.numbers()))
    name = f"kitserve_{part}_duration_seconds"
    buckets = [(labels["le"], count) for labels, count in values(families[name], f"{name}_bucket")]
    assert buckets == getattr(tally.numbers(), part).cumulative()
    assert list(values(families[name], f"{name}_count")) == [({}, 3)]
    ((_, seconds),) = values(families[name], f"{name}_sum")
    assert seconds == pytest.approx(total)


def test_what_prometheus_reads_of_batches(tally: Tally) -> None:
    name = "kitserve_batch_size"
    family = scrape(VersionSample(VersionLabels(**AT), tally.numbers()))[name]
    buckets = {labels["le"]: count for labels, count in values(family, f"{name}_bucket")}
    assert list(buckets) == [*(f"{2**power}" for power in range(11)), "+Inf"]
    assert (buckets["1"], buckets["2"], buckets["4"], buckets["1024"], buckets["+Inf"]) == (
        1,
        1,
        3,
        3,
        4,
    )
    assert list(values(family, f"{name}_count")) == [({}, 4)]
    assert list(values(family, f"{name}_sum")) == [({}, 5009)]
    without = scrape(VersionSample(VersionLabels(**AT), Tally().numbers()))[name]
    assert not without.samples


def test_tokens_are_counted_by_role_and_the_callers_own_are_added_up(tally: Tally) -> None:
    numbers = tally.numbers()
    stable, all_calls = numbers.tokens_by_role["stable"], numbers.tokens
    assert counts(stable.first) == {"0.25": 1, "30.0": 1}
    assert counts(stable.between) == {"0.025": 1, "0.04": 1, "0.25": 1}
    assert (stable.input, stable.cached, stable.output) == (14, 4, 5)
    assert counts(all_calls.first) == {"0.25": 1, "30.0": 1, "+Inf": 1}, "mirrored calls are nobody's"
    assert (all_calls.input, all_calls.cached, all_calls.output) == (15, 4, 6)
    all_calls.input += 1
    assert numbers.tokens.input == 15
    assert (stable.first.observations, stable.between.observations) == (2, 3)


def test_what_prometheus_reads_of_tokens(tally: Tally) -> None:
    sample = VersionSample(
        VersionLabels(**AT), tally.numbers(), generating=3, kv_cache_usage={"w1": 0.25, "w2": 0.0}
    )
    families = scrape(
        sample,
    )
    series = values(families["kitserve_tokens"], "kitserve_tokens_total")
    assert {(labels["role"], labels["type"]): value for labels, value in series} == {
        ("stable", "input"): 14,
        ("stable", "cached"): 4,
        ("stable", "output"): 5,
        ("canary", "input"): 1,
        ("canary", "cached"): 0,
        ("canary", "output"): 1,
        ("mirror", "input"): 7,
        ("mirror", "cached"): 0,
        ("mirror", "output"): 1,
    }
    names = {"time_to_first_token": "first", "inter_token": "between", "time_per_output_token": "per_token"}
    for name, part in names.items():
        family = families[f"kitserve_{name}_seconds"]
        buckets = {
            (labels["role"], labels["le"]): value
            for labels, value in values(family, f"kitserve_{name}_seconds_bucket")
        }
        for role, counted in tally.numbers().tokens_by_role.items():
            histogram: Histogram = getattr(counted, part)
            assert [(le, buckets[role, le]) for le, _ in histogram.cumulative()] == histogram.cumulative()
    assert list(values(families["kitserve_requests_generating"])) == [({}, 3)]
    assert list(values(families["kitserve_kv_cache_usage_ratio"])) == [
        ({"worker": "w1"}, 0.25),
        ({"worker": "w2"}, 0.0),
    ]
    other = scrape(VersionSample(VersionLabels(**AT), Tally().numbers()))
    for name in ("tokens", "time_to_first_token_seconds", "inter_token_seconds", "kv_cache_usage_ratio"):
        assert not other[f"kitserve_{name}"].samples, "a model without tokens has no such series"


def test_runs_are_counted_by_the_rows_of_their_batch(tally: Tally) -> None:
    batches = tally.numbers().batches
    assert batches == {
        1: Runs(1, 1, 0.1, 0.2, 0.3),
        4: Runs(2, 8, 1.0, 0.5, 1.0),
        8192: Runs(1, 5000, 1.0, 1.0, 1.0),
    }
    for rows in range(1, 100_000, 7):
        tally.executed(rows, 0.0, 0.0, 0.0)
    assert len(tally.numbers().batches) < 200, "callers cannot make entries without end"
    assert batches[4].runs == 2, "numbers that were read stay as they are"


def test_versions_have_series_of_their_own(tally: Tally) -> None:
    other = VersionLabels(model="iris", version='v"2\\\n', digest="ba9876543210", runtime="torchscript")
    families = scrape(
        VersionSample(VersionLabels(**AT), tally.numbers()), VersionSample(other, tally.numbers(), 1)
    )
    in_flight = families["kitserve_requests_in_flight"].samples
    assert [(sample.labels["version"], sample.value) for sample in in_flight] == [
        ("v1", 0),
        (other.version, 1),
    ]


def test_what_is_declared_is_what_prometheus_reads(tally: Tally) -> None:
    replicas, weights = {"ready": 1}, {"stable": 100}
    numbers = tally.numbers()
    numbers.log_lines["error", "call.failed"] = 2
    sample = VersionSample(
        VersionLabels(**AT),
        numbers,
        1,
        replicas,
        weights,
        edge=EDGE,
        memory_bytes={"w1": 7},
        kv_cache_usage={"w1": 0.5},
        memory_limit_bytes=9,
        gpu_memory_bytes={"w1": 11},
    )
    families = scrape(sample, system=SYSTEM, control_plane=CONTROL_PLANE)
    assert all(family.samples for family in families.values())
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    # An info is a gauge to who reads the text, and its name has an ending.
    kinds = {metric.name: metric.kind for metric in METRICS if metric.kind is not Kind.INFO}
    assert kinds == {name: family.type for name, family in families.items() if name != "kitserve_build_info"}
    for metric in METRICS:
        family = families[metric.name if metric.kind is not Kind.INFO else f"{metric.name}_info"]
        assert family.documentation == metric.help
        for series in family.samples:
            assert series.name.startswith(metric.exposed_name)
            assert series.labels.keys() - {"le"} == set(metric.labels), metric.name


def test_every_number_adds_up_over_workers(tally: Tally) -> None:
    tally.compared(0.5, False, {}, {})
    tally.compared_answers(AnswerPairs(1), is_worse=False, failed=False)
    tally.answered("canary", 400, request=0.1, queue=0.0, compute=0.1, is_unfit=True)
    one = tally.numbers()
    one.refused_bodies = 1
    one.log_lines["warning", "body.refused"] = 1
    for field in fields(Numbers):
        total = Numbers()
        total.add(one)
        assert getattr(total, field.name) != getattr(Numbers(), field.name), f"{field.name} is not added"


def test_without_versions_only_the_build_is_known() -> None:
    assert [family.name for family in scrape().values() if family.samples] == ["kitserve_build_info"]


def test_what_prometheus_reads_of_the_edge_and_of_workers() -> None:
    sample = VersionSample(
        VersionLabels(**AT), Tally().numbers(), edge=EDGE, restarts=2, memory_bytes={"w1": 7, "w2": 8}
    )
    families = scrape(sample)
    assert list(values(families["kitserve_edge_responses"], "kitserve_edge_responses_total")) == [
        ({"source": "worker", "status": "5xx"}, 0),
        ({"source": "activator", "status": "5xx"}, 0),
        ({"source": "edge", "status": "5xx"}, 3),
        ({"source": "worker", "status": "2xx"}, 9),
    ]
    errors = {
        labels["reason"]: value
        for labels, value in values(families["kitserve_edge_errors"], "kitserve_edge_errors_total")
    }
    assert errors == {"connect": 4, "response": 0, "client_abort": 0, "server_abort": 0}
    for name, value in (("edge_retries", 2), ("edge_redispatches", 1), ("worker_restarts", 2)):
        assert list(values(families[f"kitserve_{name}"], f"kitserve_{name}_total")) == [({}, value)]
    assert list(values(families["kitserve_edge_queue_length"])) == [({}, 5)]
    assert list(values(families["kitserve_worker_resident_memory_bytes"])) == [
        ({"worker": "w1"}, 7),
        ({"worker": "w2"}, 8),
    ]


def test_a_model_has_a_series_for_each_state_and_each_phase_of_its_rollout() -> None:
    families = scrape(system=SYSTEM)

    def shown(name: str) -> list[tuple[dict[str, str], float]]:
        return [
            (sample.labels, sample.value)
            for sample in families[name].samples
            if "_created" not in sample.name
        ]

    assert shown("kitserve_model_state") == [
        ({"model": "iris", "state": "ready"}, 1),
        ({"model": "iris", "state": "failed"}, 0),
        ({"model": "wine", "state": "ready"}, 0),
        ({"model": "wine", "state": "failed"}, 1),
    ]
    assert shown("kitserve_rollout_phase") == [
        ({"model": "iris", "phase": "Healthy"}, 0),
        ({"model": "iris", "phase": "Degraded"}, 1),
    ]
    assert shown("kitserve_edge_up") == [({}, 1)]
    assert shown("kitserve_edge_connections") == [({}, 4)]
    assert shown("kitserve_edge_unavailable_responses") == [({"model": "wine"}, 6)]
    assert shown("kitserve_edge_client_responses") == [({"status": "2xx"}, 9), ({"status": "5xx"}, 3)]
    assert shown("kitserve_key_calls") == [({"key": "ci"}, 7), ({"key": ""}, 3)]
    assert shown("kitserve_key_refused_calls") == [
        ({"key": "ci", "reason": "rate"}, 2),
        ({"key": "", "reason": "unknown"}, 3),
    ]
    assert shown("kitserve_payload_records") == [
        ({"model": "iris", "outcome": "written"}, 8),
        ({"model": "iris", "outcome": "dropped"}, 2),
    ]
    assert shown("kitserve_process_resident_memory_bytes") == [
        ({"process": "gateway"}, 100),
        ({"process": "edge"}, 50),
    ]
    assert shown("kitserve_trace_spans") == [
        ({"outcome": "sent"}, 9),
        ({"outcome": "failed"}, 2),
        ({"outcome": "dropped"}, 1),
    ]


def test_a_rollout_tells_of_its_step_its_reason_and_its_verdicts() -> None:
    families = scrape(system=SYSTEM)

    def shown(name: str) -> list[tuple[dict[str, str], float]]:
        samples = families[f"kitserve_rollout_{name}"].samples
        return [
            ({key: text for key, text in sample.labels.items() if key != "model"}, sample.value)
            for sample in samples
        ]

    assert shown("reason") == [({"reason": "AnalysisFailed"}, 1)]
    assert shown("verdict") == [
        ({"check": "errors", "outcome": "Successful"}, 0),
        ({"check": "errors", "outcome": "Failed"}, 1),
    ]
    assert shown("units") == [
        ({"check": "errors", "unit": "callers"}, 41),
        ({"check": "errors", "unit": "pairs"}, 96),
    ]
    for name, value in (("step", 1), ("steps", 3), ("held_seconds", 12.5), ("mirrored_ratio", 0.25)):
        assert shown(name) == [({}, value)], name
    (total,) = families["kitserve_rollouts"].samples
    assert (total.name, total.labels, total.value) == ("kitserve_rollouts_total", {"model": "iris"}, 2)


def test_a_gpu_says_why_it_is_slowed_down() -> None:
    samples = scrape(control_plane=CONTROL_PLANE)["kitserve_gpu_throttled"].samples
    slowed = [(sample.labels["gpu"], sample.labels["reason"]) for sample in samples if sample.value]
    assert slowed == [("0", "sw_power_cap")]
    assert len(samples) == 2 * len(THROTTLE_REASONS)


def test_a_gpu_that_does_not_tell_has_no_series() -> None:
    families = scrape(control_plane=CONTROL_PLANE)
    for name, value in (
        ("memory_size_bytes", 80 * GIB),
        ("memory_used_bytes", 8 * GIB),
        ("power_watts", 350.0),
        ("power_limit_watts", 400.0),
    ):
        (sample,) = families[f"kitserve_gpu_{name}"].samples
        assert (sample.labels, sample.value) == ({"gpu": "0", "uuid": "GPU-1"}, value)
    without = scrape(control_plane=replace(CONTROL_PLANE, gpus=Gpus(), disk=None, memory=None))
    for name in ("gpu_utilization_ratio", "home_size_bytes", "memory_available_bytes"):
        assert not without[f"kitserve_{name}"].samples


def test_a_worker_cannot_make_series_without_end() -> None:
    numbers = Tally().numbers()
    numbers.log_lines.update({("error", f"event.{number}"): 1 for number in range(10_000)})
    families = scrape(VersionSample(VersionLabels(**AT), numbers))
    assert 0 < len(families["kitserve_worker_log_lines"].samples) < 1000
