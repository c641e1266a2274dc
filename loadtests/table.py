"""A table for each workload, made from measured cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from loadtests.contenders import FLOOR, NAMES
from loadtests.wrk import Load

ALONE = "onnxruntime alone"
"""The name of a loop that runs the model and nothing else, so without connections."""
ORDER = (ALONE, *NAMES)


@dataclass(frozen=True, slots=True)
class Cell:
    """One measurement of one contender under one load; `errors` counts those of its warm-up too."""

    workload: str
    contender: str
    connections: int
    load: Load
    cpu_seconds: float
    pss_mib: float
    errors: int


@dataclass(frozen=True, slots=True)
class Figures:
    """One contender under one load: medians over the passes, and the sum of errors."""

    rate: float
    spread: float
    """The highest rate of a pass less the lowest, as a share of the median."""
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    """CPU time of a call, which is also the CPU seconds of 1,000 calls."""
    pss_mib: float
    errors: int


@dataclass(frozen=True, slots=True)
class Results:
    """One workload: figures by contender and number of connections, and why others are absent."""

    title: str
    figures: Mapping[tuple[str, int], Figures]
    absent: Mapping[str, str]

    def find(self, contender: str, connections: int) -> Figures | None:
        """Return the figures of a contender under one load; a bare loop has the same under any load."""
        return self.figures.get((contender, 0 if contender == ALONE else connections))


def results(title: str, cells: Sequence[Cell], absent: Mapping[str, str]) -> Results:
    """Sum up the cells of one workload."""
    groups: dict[tuple[str, int], list[Cell]] = {}
    for cell in sorted(cells, key=lambda cell: (ORDER.index(cell.contender), cell.connections)):
        groups.setdefault((cell.contender, cell.connections), []).append(cell)
    return Results(title, {key: _figures(group) for key, group in groups.items()}, dict(absent))


def _figures(cells: Sequence[Cell]) -> Figures:
    rates = [cell.load.rate for cell in cells]
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
    """Return the columns of a workload's table; the last four are at the load by which goals are judged."""
    loads = [name for count in connections for name in (f"{count}: requests/s", "p50 ms", "p99 ms")]
    return ["", *loads, "of the floor", "CPU s/1,000", "PSS MiB", "spread"]


def rows(result: Results, connections: Sequence[int], judged: int) -> list[list[str]]:
    """Return a line for each contender, as `header` has them; `judged` is the load of the last columns."""
    lines = []
    floor = result.find(FLOOR, judged)
    for name in dict.fromkeys(contender for contender, _ in result.figures):
        loads = [figures for count in connections if (figures := result.find(name, count))]
        last = result.find(name, judged) or loads[-1]
        cells = (
            # The figures of a bare loop stand once, under the lowest load.
            text
            for index, count in enumerate(connections)
            for text in _load(result.find(name, count) if name != ALONE or index == 0 else None)
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
    lines += [[f"{name}: absent", *[""] * (len(header(connections)) - 1)] for name in result.absent]
    return lines


def _load(figures: Figures | None) -> list[str]:
    if figures is None:
        return [""] * 3
    mark = f" ({figures.errors} failed)" if figures.errors else ""
    return [number(figures.rate) + mark, number(figures.p50_ms), number(figures.p99_ms)]


def number(value: float) -> str:
    """Write a number with three significant digits."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def markdown(lines: Sequence[Sequence[str]], columns: Sequence[str]) -> str:
    """Write a table in Markdown, for docs/speed.md."""
    alignments = ["---", *["---:"] * (len(columns) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (columns, alignments, *lines))


def ratio(part: float, whole: float) -> float:
    """Return `part` / `whole`, or NaN where `whole` is 0."""
    return part / whole if whole else float("nan")
