"""The metrics of a Kitserve that has everything: language models, keys, TLS, GPUs, a judged rollout."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping

from gateway.gpus.devices import Gpu, Gpus
from gateway.metrics.control_plane import ControlPlaneSample
from gateway.metrics.counts import MIRRORED
from gateway.metrics.edge_numbers import EdgeNumbers
from gateway.metrics.exposition import Scrape
from gateway.metrics.machine import MachineMemory
from gateway.metrics.rollouts import RolloutSample
from gateway.metrics.system import (
    EdgeSample,
    KeyNumbers,
    ModelSample,
    PayloadNumbers,
    SpanNumbers,
    SystemSample,
)
from gateway.metrics.tally import Tally
from gateway.metrics.tokens import Tokens
from gateway.metrics.versions import VersionLabels, VersionSample

GIB = 1 << 30
LABELS = VersionLabels("iris", "v1", "0123456789ab", "onnx")


def busy_metrics(certificate_end: float, now: Callable[[], float]) -> Callable[[], Scrape]:
    """Return what measures such a Kitserve: at each look it has answered more calls.

    Much is wrong with it as well: a model has failed, and its rollout is stuck.
    """
    tally, looks = Tally(), itertools.count(1)

    def measure() -> Scrape:
        count = next(looks)
        _call(tally)
        numbers = tally.numbers()
        numbers.refused_bodies = count
        numbers.log_lines["error", "worker.stuck"] = count
        answers = Counter({("worker", "2xx"): 10 * count, ("edge", "5xx"): count})
        edge = EdgeNumbers(answers, Counter(connect=count), count, count)
        version = VersionSample(
            LABELS,
            numbers,
            replicas={"ready": 1},
            weights={"stable": 100},
            edge=edge,
            memory_bytes={"w1": GIB},
            kv_cache_usage={"w1": 0.5},
            memory_limit_bytes=GIB,
            gpu_memory_bytes={"w1": 2 * GIB},
        )
        rollout = RolloutSample(
            _one_of("Paused", "Healthy"),
            "InconclusiveAnalysis",
            number=count,
            step=1,
            steps=2,
            held_seconds=count,
            verdicts={"errors": _one_of("Inconclusive", "Failed")},
            units={"errors": {"worker_seconds": count, "pairs": count}},
        )
        models = (
            ModelSample("iris", _one_of("ready", "failed"), rollout),
            ModelSample("wine", _one_of("failed", "ready"), tries=9),
        )
        whole = EdgeSample(
            True,
            {"2xx": 10 * count, "5xx": count},
            {"iris": 0, "wine": count},
            4,
            {"ci": KeyNumbers(count, {"rate": count}), "": KeyNumbers(count, {"unknown": count})},
            {"connection": 0, "call": 0},
            8192,
        )
        control_plane = ControlPlaneSample(
            now() - 100,
            now(),
            failed_ticks=count,
            state_errors=count,
            generation=2,
            observed_generation=1,
            log_lines={("error", "tick.failed"): count},
            certificate_ends={"listen": certificate_end},
            disk=(100 * GIB, GIB),
            memory=MachineMemory(16 * GIB, GIB),
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
                        throttle_reasons=("hw_thermal_slowdown",),
                    ),
                )
            ),
        )
        system = SystemSample(
            models,
            whole,
            {"gateway": GIB, "edge": GIB},
            payloads={"iris": PayloadNumbers(10 * count, count)},
            spans=SpanNumbers(10 * count, count, count),
        )
        return Scrape((version,), system, control_plane)

    return measure


def _call(tally: Tally) -> None:
    tokens = Tokens(input=9, cached=4, output=3)
    tokens.first.observe(0.2)
    tokens.between.observe(0.02)
    for role in ("stable", MIRRORED):
        tally.answered(role, 200, request=0.01, queue=0.001, compute=0.005)
        tally.generated(role, tokens)
    tally.executed(4, decode=0.1, infer=0.2, encode=0.1)
    tally.opened(1000, from_cache=False, unpack_seconds=1.0)
    tally.loaded(1.0)
    tally.dropped("rejected")
    tally.compared(1.0, False, {}, {})
    tally.failed_to("pull")


def _one_of(holds: str, *others: str) -> Mapping[str, bool]:
    return {holds: True, **dict.fromkeys(others, False)}
