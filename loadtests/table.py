"""From measured cells to the table, its ratios and the goals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from loadtests.contenders import EDGE, FLOOR, PLAIN, WORKER
from loadtests.wrk import Load

HEADER = (
    "connections",
    "contender",
    "requests/s",
    "spread",
    "p50 ms",
    "p99 ms",
    "of the floor",
    "x plain Ray Serve",
    "CPU ms/request",
    "errors",
)


@dataclass(frozen=True, slots=True)
class Cell:
    """One contender under one load, once; `errors` of its warm-up too."""

    contender: str
    connections: int
    load: Load
    cpu_seconds: float
    errors: int

    @property
    def rate(self) -> float:
        """Calls answered well, a second."""
        return max(0, self.load.requests - self.load.errors) / self.load.seconds


@dataclass(frozen=True, slots=True)
class Row:
    """One contender under one load: medians over the passes, and all errors."""

    contender: str
    connections: int
    rate: float
    spread: float
    """How far the passes lie apart: the highest rate less the lowest, as a share of the median."""
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    errors: int
    of_floor: float
    of_plain: float


@dataclass(frozen=True, slots=True)
class Goal:
    """`contender` answers at least `times` as many calls as `than`."""

    contender: str
    than: str
    times: float


GOALS = (Goal(EDGE, PLAIN, 20), Goal(WORKER, FLOOR, 0.85), Goal(EDGE, FLOOR, 0.45))
GOAL_CONNECTIONS = 16


def rows(cells: Sequence[Cell]) -> list[Row]:
    """One row for each contender and number of connections, in the order of the cells."""
    groups: dict[tuple[int, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.connections, cell.contender), []).append(cell)
    rates = {key: median(cell.rate for cell in group) for key, group in groups.items()}
    return [
        Row(
            contender=contender,
            connections=connections,
            rate=(rate := rates[connections, contender]),
            spread=_ratio(max(cell.rate for cell in group) - min(cell.rate for cell in group), rate),
            p50_ms=median(cell.load.p50_ms for cell in group),
            p99_ms=median(cell.load.p99_ms for cell in group),
            cpu_ms=median(_ratio(cell.cpu_seconds * 1e3, cell.load.requests) for cell in group),
            errors=sum(cell.errors for cell in group),
            of_floor=_ratio(rate, rates.get((connections, FLOOR), 0)),
            of_plain=_ratio(rate, rates.get((connections, PLAIN), 0)),
        )
        for (connections, contender), group in groups.items()
    ]


def verdicts(measured: Sequence[Row]) -> list[str]:
    """Each goal with what was reached; none where its number of connections was not measured."""
    found = {row.contender: row.rate for row in measured if row.connections == GOAL_CONNECTIONS}
    lines = []
    for goal in GOALS:
        if goal.contender in found and goal.than in found:
            reached = _ratio(found[goal.contender], found[goal.than])
            word = "met" if reached >= goal.times else "MISSED"
            lines.append(
                f"{word}: {goal.contender} is {reached:.2f} x {goal.than} at {GOAL_CONNECTIONS} connections "
                f"(goal: {goal.times:g})"
            )
    return lines


def texts(row: Row) -> list[str]:
    """A row as it is shown, in the order of HEADER."""
    return [
        str(row.connections),
        row.contender,
        f"{row.rate:,.0f}" if row.rate >= 100 else f"{row.rate:.1f}",
        f"{row.spread:.0%}",
        f"{row.p50_ms:.2f}",
        f"{row.p99_ms:.2f}",
        f"{row.of_floor:.2f}" if row.of_floor >= 0.1 else f"{row.of_floor:.3f}",
        f"{row.of_plain:.1f}",
        f"{row.cpu_ms:.3f}",
        f"{row.errors} (!)" if row.errors else "0",
    ]


def markdown(measured: Sequence[Row]) -> str:
    """The table for a README."""
    lines = [HEADER, ["---" if name == "contender" else "---:" for name in HEADER], *map(texts, measured)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
