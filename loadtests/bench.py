"""Measure Kitserve beside the floor and other model servers, on loopback.

A wrong answer or a failed call fails the run. Speed is only reported.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from loadtests import contenders, plot, usage, wrk
from loadtests.calls import WrongAnswer, check
from loadtests.conditions import conditions
from loadtests.contenders import Contender, NotReady
from loadtests.goals import JUDGED, verdicts
from loadtests.plain_model import PlainModel
from loadtests.table import ALONE, Cell, Results, header, markdown, results, rows
from loadtests.workloads import WORKLOADS, Workload

_WARM_UP_SECONDS = 1
_BETWEEN_SECONDS = 1.5
_START_SECONDS = 40
_WIDTH = 160

_HOW = (
    "wrk with 1 thread, kept connections, the next call after each answer, on the same cores; contenders "
    "take turns, the others are up and idle; each answers a checked call before its turn",
    "one worker each, ONNX Runtime with 1 thread, no log of calls; other options as they come: no peer "
    "batches, MLServer runs the model in its own process (the quicker way)",
    "Kitserve, batching: 32, 16 or 4 items (tiny, LSTM, image), no waiting for others",
    "CPU and memory (PSS) are of all processes of a server: for Kitserve and Ray Serve with all of Ray",
    f"of the floor and CPU are at {JUDGED} connections; PSS is the largest, spread the widest of a line",
)

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Run:
    """What one run measured. Any of `faults` makes it fail."""

    conditions: dict[str, str]
    cells: list[Cell] = field(default_factory=list)
    absent: dict[str, dict[str, str]] = field(default_factory=dict)
    """Why contenders are absent: by workload, then by name."""
    faults: list[str] = field(default_factory=list)


def main() -> int:
    """Measure and report. Return 1 when an answer was wrong or a call failed, else 0."""
    options = _options()
    console = Console(stderr=True, highlight=False)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.report:
        run = read(json.loads(options.report.read_text()))
    else:
        try:
            wrk.find()
            run = Run(conditions())
            run.conditions["cells"] = (
                f"{options.seconds} s after {_WARM_UP_SECONDS} s warm-up, medians of {options.passes} passes"
            )
            for _ in _measure(options, run, console.print):
                (options.out / "bench.json").write_text(json.dumps(asdict(run), indent=1))
        except (wrk.WrkFailed, NotReady) as error:
            console.print(f"bench: {error}", markup=False)
            return 1
    report(run, options.out)
    return 1 if run.faults or any(cell.errors for cell in run.cells) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench", description=__doc__)
    workloads = [workload.name for workload in WORKLOADS]
    parser.add_argument("--workloads", type=_words, default=workloads, help=",".join(workloads))
    parser.add_argument("--contenders", type=_words, default=contenders.NAMES, help="such as floor,Kitserve")
    parser.add_argument("--connections", type=_numbers, default=[1, 16, 64], help="such as 1,16,64")
    parser.add_argument("--seconds", type=int, default=3, help="length of a cell")
    parser.add_argument("--passes", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="one pass of 1 s at 1 and 16 connections")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="where the files of a run go")
    parser.add_argument("--report", type=Path, metavar="FILE", help="measure nothing; report a bench.json")
    options = parser.parse_args()
    if options.quick:
        options.connections, options.seconds, options.passes = [1, 16], 1, 1
    if min(options.seconds, options.passes, *options.connections) < 1:
        parser.error("seconds, passes and connections are numbers from 1 up")
    for chosen, names in ((options.workloads, workloads), (options.contenders, contenders.NAMES)):
        if unknown := set(chosen) - set(names):
            parser.error(f"{', '.join(unknown)}: none of {', '.join(names)}")
    return options


def _words(text: str) -> list[str]:
    # Names of contenders have commas in them: "Kitserve, batching" is what follows a comma and a space.
    return [part.replace("\0", ", ") for part in text.replace(", ", "\0").split(",")]


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _measure(options: argparse.Namespace, run: Run, say: Say) -> Iterator[None]:
    """Fill in the run. Yield after each model, so that what was measured can be written."""
    chosen = [workload for workload in WORKLOADS if workload.name in options.workloads]
    say(f"about {_minutes(options, chosen):.0f} minutes")
    for model, group in groupby(chosen, key=lambda workload: workload.model):
        workloads = list(group)
        say(f"starting all with the model of {workloads[0].title}")
        with contenders.field_of(options.contenders, model(), say) as up:
            for workload in workloads:
                run.absent[workload.name] = {
                    name: why for name, why in up.absent.items() if contenders.speaks(name, workload.form)
                }
            for turn in range(options.passes):
                for workload in workloads:
                    _turn(options, workload, turn, up.contenders, run, say)
        yield


def _minutes(options: argparse.Namespace, chosen: Sequence[Workload]) -> float:
    turns = sum(contenders.speaks(name, workload.form) for name in options.contenders for workload in chosen)
    cells = turns * len(options.connections) * options.passes
    starts: int = len({workload.model for workload in chosen}) * _START_SECONDS
    seconds: float = starts + cells * (options.seconds + _WARM_UP_SECONDS + _BETWEEN_SECONDS)
    return seconds / 60


def _turn(
    options: argparse.Namespace, workload: Workload, turn: int, running: list[Contender], run: Run, say: Say
) -> None:
    """Measure one pass of a workload. A contender that answers wrongly is removed from `running`."""

    def keep(cell: Cell) -> None:
        say(
            f"{workload.name}, pass {turn + 1}, {cell.connections:2} connections: "
            f"{cell.contender} {cell.load.rate:,.1f}/s, p50 {cell.load.p50_ms:.2f} ms, {cell.pss_mib:.0f} MiB"
            + (f", {cell.errors} FAILED" if cell.errors else "")
        )
        run.cells.append(cell)

    speakers = [contender for contender in running if workload.form in contender.dialects]
    if workload.alone:
        keep(_alone(workload, options.seconds))
    for connections in options.connections:
        for contender in speakers if turn % 2 == 0 else reversed(speakers):
            if contender not in running:
                continue
            try:
                keep(_cell(workload, contender, connections, options.seconds))
            except (WrongAnswer, wrk.WrkFailed) as error:
                say(f"{workload.name}: {error}")
                run.faults.append(f"{workload.name}: {error}")
                running.remove(contender)


def _cell(workload: Workload, contender: Contender, connections: int, seconds: int) -> Cell:
    model = workload.model()
    array = model.inputs[0]
    dialect = contender.dialects[workload.form]
    check(contender.name, contender.url, dialect, array, PlainModel(model.onnx).run({"input": array}))
    call = dialect.call(array)
    warm_up = wrk.run(contender.url, call, connections, _WARM_UP_SECONDS)
    usage.settle(contender.processes)
    processes = list(contender.processes())
    before = usage.cpu_seconds(processes)
    load = wrk.run(contender.url, call, connections, seconds)
    spent = usage.cpu_seconds(processes) - before
    memory = usage.pss_mib(processes)
    usage.settle(contender.processes)
    errors = warm_up.errors + load.errors
    return Cell(workload.name, contender.name, connections, load, spent, memory, errors)


def _alone(workload: Workload, seconds: int) -> Cell:
    command = [sys.executable, "-m", "loadtests.alone", workload.model.__name__, str(seconds)]
    figures = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    spent = figures.pop("cpu_seconds")
    return Cell(workload.name, ALONE, 0, wrk.Load(**figures), spent, 0, 0)


def read(document: dict[str, Any]) -> Run:
    """Return the run that a bench.json holds."""
    cells = [Cell(**{**cell, "load": wrk.Load(**cell["load"])}) for cell in document["cells"]]
    return Run(document["conditions"], cells, document["absent"], document["faults"])


def report(run: Run, directory: Path) -> None:
    """Show the tables, and write them as bench.md and as bench.svg."""
    measured: dict[str, Results] = {}
    for workload in WORKLOADS:
        if cells := [cell for cell in run.cells if cell.workload == workload.name]:
            measured[workload.name] = results(workload.title, cells, run.absent[workload.name])
    connections = sorted({cell.connections for cell in run.cells} - {0})
    judged = JUDGED if JUDGED in connections else connections[-1]
    console = Console(highlight=False, width=_WIDTH)
    written = []
    columns = header(connections)
    for result in measured.values():
        lines = rows(result, connections, judged)
        table = Table(*(Column(name, no_wrap=True) for name in columns), title=result.title)
        for line in lines:
            table.add_row(*line, style="bold red" if any("failed" in text for text in line) else "")
        console.print(table)
        written += [f"**{result.title}**", markdown(lines, columns)]
    absent = {
        f"{name} was left out: {why}" for result in measured.values() for name, why in result.absent.items()
    }
    notes = [
        *verdicts(measured),
        *absent,
        *run.faults,
        *(f"{k}: {v}" for k, v in run.conditions.items()),
        *_HOW,
    ]
    written.append("\n".join(f"- {line}" for line in notes))
    print("\n".join(f"- {line}" for line in notes))
    (directory / "bench.md").write_text("\n\n".join(written) + "\n")
    plot.draw(list(measured.values()), judged, directory / "bench.svg")


if __name__ == "__main__":
    sys.exit(main())
