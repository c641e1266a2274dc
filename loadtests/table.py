"""From measured cells to a table for each workload."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from loadtests.contenders import FLOOR, NAMES
from loadtests.wrk import Load

ALONE = "onnxruntime alone"
"""A loop that runs the model and nothing else: no calls, so no connections."""
ORDER = (ALONE, *NAMES)


@dataclass(frozen=True, slots=True)
class Cell:
    """One contender under one load, once; `errors` of its warm-up too."""

    workload: str
    contender: str
    connections: int
    load: Load
    cpu_seconds: float
    pss_mib: float
    errors: int

    @property
    def rate(self) -> float:
        """Calls answered well, a second."""
        return max(0, self.load.requests - self.load.errors) / self.load.seconds


@dataclass(frozen=True, slots=True)
class Figures:
    """One contender under one load: medians over the passes, and all errors."""

    rate: float
    spread: float
    """How far the passes lie apart: the highest rate less the lowest, as a share of the median."""
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    """CPU time a call: as many seconds for 1,000 calls."""
    pss_mib: float
    errors: int


@dataclass(frozen=True, slots=True)
class Results:
    """One workload: figures by contender and number of connections, and who was absent and why."""

    title: str
    figures: Mapping[tuple[str, int], Figures]
    absent: Mapping[str, str]

    def find(self, contender: str, connections: int) -> Figures | None:
        """The figures of one contender under one load; a bare loop has them whatever the load."""
        return self.figures.get((contender, 0 if contender == ALONE else connections))


def results(title: str, cells: Sequence[Cell], absent: Mapping[str, str]) -> Results:
    """One workload's cells, summed up."""
    groups: dict[tuple[str, int], list[Cell]] = {}
    for cell in sorted(cells, key=lambda cell: (ORDER.index(cell.contender), cell.connections)):
        groups.setdefault((cell.contender, cell.connections), []).append(cell)
    return Results(title, {key: _figures(group) for key, group in groups.items()}, dict(absent))


def _figures(cells: Sequence[Cell]) -> Figures:
    rates = [cell.rate for cell in cells]
    return Figures(
        rate=(rate := median(rates)),
        spread=ratio(max(rates) - min(rates), rate),
        p50_ms=median(cell.load.p50_ms for cell in cells),
        p99_ms=median(cell.load.p99_ms for cell in cells),
        cpu_ms=median(ratio(cell.cpu_seconds * 1e3, cell.load.requests) for cell in cells),
        pss_mib=max(cell.pss_mib for cell in cells),
        errors=sum(cell.errors for cell in cells),
    )


def header(connections: Sequence[int]) -> list[str]:
    """The columns of a workload's table; the last four are of the load that goals are judged by."""
    loads = [name for count in connections for name in (f"{count}: requests/s", "p50 ms", "p99 ms")]
    return ["", *loads, "of the floor", "CPU s/1,000", "PSS MiB", "spread"]


def rows(found: Results, connections: Sequence[int], judged: int) -> list[list[str]]:
    """One line for each contender, in the order of the header; `judged` is the load of the last columns."""
    lines = []
    floor = found.find(FLOOR, judged)
    for name in dict.fromkeys(contender for contender, _ in found.figures):
        loads = [figures for count in connections if (figures := found.find(name, count))]
        last = found.find(name, judged) or loads[-1]
        cells = (
            # A bare loop has one figure, under no load: it stands in the place of the lowest.
            text
            for place, count in enumerate(connections)
            for text in _load(found.find(name, count) if name != ALONE or place == 0 else None)
        )
        lines.append(
            [
                name,
                *cells,
                number(ratio(last.rate, floor.rate if floor else 0)),
                number(last.cpu_ms),
                f"{max(figures.pss_mib for figures in loads):,.0f}" if name != ALONE else "",
                f"{max(figures.spread for figures in loads):.0%}",
            ]
        )
    lines += [[f"{name}: absent", *[""] * (len(header(connections)) - 1)] for name in found.absent]
    return lines


def _load(figures: Figures | None) -> list[str]:
    if figures is None:
        return [""] * 3
    mark = f" ({figures.errors} failed)" if figures.errors else ""
    return [number(figures.rate) + mark, number(figures.p50_ms), number(figures.p99_ms)]


def number(value: float) -> str:
    """Three digits that mean something."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def markdown(lines: Sequence[Sequence[str]], columns: Sequence[str]) -> str:
    """A table for docs/speed.md."""
    marks = ["---", *["---:"] * (len(columns) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (columns, marks, *lines))


def ratio(part: float, whole: float) -> float:
    """Not a number where there is no whole."""
    return part / whole if whole else float("nan")
