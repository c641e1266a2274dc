"""What a run on a GPU measured, as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from loadtests.table import markdown, number, ratio
from loadtests.wrk import Load

DIRECTLY = "directly"
"""The way of a cell in which the engine was called without Kitserve."""
JUDGED = 16
"""The connections at which Kitserve is judged."""
GOAL = 0.95
"""The part of the engine's own calls a second that it is to answer on a GPU."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One way to call a model, at one number of connections."""

    model: str
    way: str
    connections: int
    load: Load
    gpu_mib: int
    """What was in use of the GPUs' memory: by the process alone, or through Kitserve by all."""


@dataclass(frozen=True, slots=True)
class Run:
    """What one run found. Any of `faults` makes it fail."""

    conditions: Mapping[str, str]
    cells: list[Cell] = field(default_factory=list)
    steps: dict[str, Any] = field(default_factory=dict)
    """The seconds and the findings of each step, by its name."""
    faults: list[str] = field(default_factory=list)


def report(run: Run) -> str:
    """Return the run in Markdown: a table, the findings of the steps, the conditions."""
    columns = ["", "connections", "requests/s", "p50 ms", "p99 ms", "GPU MiB", "of the engine"]
    lines = [
        [
            f"{cell.model}, {cell.way}",
            str(cell.connections),
            number(cell.load.rate) + (f" ({cell.load.errors} failed)" if cell.load.errors else ""),
            number(cell.load.p50_ms),
            number(cell.load.p99_ms),
            f"{cell.gpu_mib:,}",
            _ratio(cell, run.cells),
        ]
        for cell in sorted(run.cells, key=lambda cell: (cell.model, cell.connections, cell.way))
    ]
    notes = [f"FAILED: {fault}" for fault in run.faults]
    notes += [_verdict(cell, run.cells) for cell in run.cells if _is_judged(cell)]
    for name, step in run.steps.items():
        notes.append(f"{name}: {step['seconds']} s")
        notes += [f"{name}: {line}" for line in step["findings"]]
    notes += [f"{name}: {value}" for name, value in run.conditions.items()]
    return "\n\n".join((markdown(lines, columns), "\n".join(f"- {note}" for note in notes))) + "\n"


def _is_judged(cell: Cell) -> bool:
    return cell.way != DIRECTLY and cell.connections == JUDGED


def _verdict(cell: Cell, cells: Sequence[Cell]) -> str:
    """Return whether Kitserve is as quick as it is to be on a GPU; on CPUs, small models say little."""
    part = _ratio(cell, cells)
    word = "met" if part and float(part) >= GOAL else "MISSED"
    return (
        f"{cell.model} at {JUDGED} connections: at least {GOAL} of the engine: {word} ({part or 'unknown'})"
    )


def _ratio(cell: Cell, cells: Sequence[Cell]) -> str:
    """Return the calls a second as a part of those of the engine called directly."""
    engine = [
        other
        for other in cells
        if (other.model, other.connections) == (cell.model, cell.connections) and other.way == DIRECTLY
    ]
    return number(ratio(cell.load.rate, engine[0].load.rate)) if engine and cell.way != DIRECTLY else ""
