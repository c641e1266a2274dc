"""The goals for Kitserve's speed, and whether a measurement reached them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from loadtests.contenders import BATCHING, FLOOR, KITSERVE, PEERS
from loadtests.table import ALONE, Results, ratio
from loadtests.workloads import COMPUTE, IMAGE_BINARY, IMAGE_JSON, TINY

JUDGED = 16
"""The number of connections at which goals are judged, except the latency of a lone caller."""

Measure = Callable[[Results], float | None]


@dataclass(frozen=True, slots=True)
class Goal:
    """One goal. `measure` returns None where a contender or a load was not measured."""

    workload: str
    text: str
    measure: Measure
    reached: Callable[[float], bool]


def _rate(contender: str, reference: str) -> Measure:
    def measure(results: Results) -> float | None:
        figures, compared = results.find(contender, JUDGED), results.find(reference, JUDGED)
        return ratio(figures.rate, compared.rate) if figures and compared else None

    return measure


def _of_best_peer(results: Results) -> float | None:
    ours = results.find(KITSERVE, JUDGED)
    peers = [figures.rate for peer in PEERS if (figures := results.find(peer, JUDGED))]
    return ratio(ours.rate, max(peers)) if ours and peers else None


def _lone_delay_ms(results: Results) -> float | None:
    ours, floor = results.find(KITSERVE, 1), results.find(FLOOR, 1)
    return ours.p50_ms - floor.p50_ms if ours and floor else None


def _cpu(results: Results) -> float | None:
    ours, floor = results.find(KITSERVE, JUDGED), results.find(FLOOR, JUDGED)
    return ratio(ours.cpu_ms, floor.cpu_ms) if ours and floor else None


GOALS = (
    Goal(TINY.name, "at least 5 times the best peer", _of_best_peer, lambda x: x >= 5),
    Goal(TINY.name, "at least 0.7 of the floor", _rate(KITSERVE, FLOOR), lambda x: x >= 0.7),
    Goal(TINY.name, "a lone caller's p50 within 0.1 ms of the floor's", _lone_delay_ms, lambda x: x <= 0.1),
    Goal(COMPUTE.name, "at least 0.95 of onnxruntime alone", _rate(KITSERVE, ALONE), lambda x: x >= 0.95),
    Goal(COMPUTE.name, "with batching above onnxruntime alone", _rate(BATCHING, ALONE), lambda x: x > 1),
    Goal(IMAGE_JSON.name, "at most 0.7 of the floor's CPU a call", _cpu, lambda x: x <= 0.7),
    Goal(IMAGE_BINARY.name, "at least 0.95 of the floor", _rate(KITSERVE, FLOOR), lambda x: x >= 0.95),
    Goal(IMAGE_BINARY.name, "with batching above the floor", _rate(BATCHING, FLOOR), lambda x: x > 1),
)


def verdicts(measured: Mapping[str, Results]) -> list[str]:
    """Return one line for each goal whose contenders were measured; `measured` is by workload."""
    lines = []
    for goal in GOALS:
        if goal.workload not in measured:
            continue
        value = goal.measure(measured[goal.workload])
        if value is not None:
            word = "met" if goal.reached(value) else "MISSED"
            lines.append(f"{word}: {goal.workload}: {goal.text} ({value:.2f})")
    return lines
