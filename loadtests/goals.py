"""What Kitserve wants to reach, and whether a measurement did."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from loadtests.contenders import BATCHING, FLOOR, KITSERVE, PEERS
from loadtests.table import ALONE, Results, ratio
from loadtests.workloads import COMPUTE, IMAGE_BINARY, IMAGE_JSON, TINY

JUDGED = 16
"""Goals are judged at so many connections, but that for the latency of a lone caller."""

Measure = Callable[[Results], float | None]


@dataclass(frozen=True, slots=True)
class Goal:
    """`measure` gives None where a contender or load was not measured."""

    workload: str
    text: str
    measure: Measure
    reached: Callable[[float], bool]


def _rate(contender: str, than: str) -> Measure:
    def measure(found: Results) -> float | None:
        ours, theirs = found.find(contender, JUDGED), found.find(than, JUDGED)
        return ratio(ours.rate, theirs.rate) if ours and theirs else None

    return measure


def _of_best_peer(found: Results) -> float | None:
    ours = found.find(KITSERVE, JUDGED)
    peers = [figures.rate for peer in PEERS if (figures := found.find(peer, JUDGED))]
    return ratio(ours.rate, max(peers)) if ours and peers else None


def _lone_delay_ms(found: Results) -> float | None:
    ours, floor = found.find(KITSERVE, 1), found.find(FLOOR, 1)
    return ours.p50_ms - floor.p50_ms if ours and floor else None


def _cpu(found: Results) -> float | None:
    ours, floor = found.find(KITSERVE, JUDGED), found.find(FLOOR, JUDGED)
    return ratio(ours.cpu_ms, floor.cpu_ms) if ours and floor else None


GOALS = (
    Goal(TINY.name, "at least 5 times the best peer", _of_best_peer, lambda at: at >= 5),
    Goal(TINY.name, "at least 0.7 of the floor", _rate(KITSERVE, FLOOR), lambda at: at >= 0.7),
    Goal(TINY.name, "a lone caller's p50 within 0.1 ms of the floor's", _lone_delay_ms, lambda at: at <= 0.1),
    Goal(COMPUTE.name, "at least 0.95 of onnxruntime alone", _rate(KITSERVE, ALONE), lambda at: at >= 0.95),
    Goal(COMPUTE.name, "with batching above onnxruntime alone", _rate(BATCHING, ALONE), lambda at: at > 1),
    Goal(IMAGE_JSON.name, "at most 0.7 of the floor's CPU a call", _cpu, lambda at: at <= 0.7),
    Goal(IMAGE_BINARY.name, "at least 0.95 of the floor", _rate(KITSERVE, FLOOR), lambda at: at >= 0.95),
    Goal(IMAGE_BINARY.name, "with batching above the floor", _rate(BATCHING, FLOOR), lambda at: at > 1),
)


def verdicts(found: Mapping[str, Results]) -> list[str]:
    """One line for each goal whose contenders were measured."""
    lines = []
    for goal in GOALS:
        if goal.workload not in found:
            continue
        at = goal.measure(found[goal.workload])
        if at is not None:
            word = "met" if goal.reached(at) else "MISSED"
            lines.append(f"{word}: {goal.workload}: {goal.text} ({at:.2f})")
    return lines
