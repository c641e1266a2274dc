"""Kitserve beside the least a Python server can do and beside plain Ray Serve: one run, on loopback.

Speed is reported and never fails the run; a wrong answer or a failed call does.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from gateway.kits.library import Library
from gateway.oci.reference import parse_reference
from loadtests import contenders, cpu, table, wrk
from loadtests.call import BODY, Check, WrongAnswer, checker
from loadtests.conditions import conditions
from loadtests.contenders import Contender, NotReady

_WARM_UP_SECONDS = 1
_BETWEEN_SECONDS = 0.7
_START_SECONDS = 40
_WIDTH = 140

_HOW = (
    "wrk with 1 thread, kept connections, the next call after each answer, on the same cores; "
    "contenders take turns, the others are up and idle; each answers a checked call before its turn; "
    "ONNX Runtime has 1 thread everywhere",
    "CPU is that of the process (floor), of it and all of its Ray (plain Ray Serve), of the worker, or of "
    "HAProxy and the model's workers",
    "plain Ray Serve: FastAPI ingress, handle, model; 1 replica each, Serve's HTTP proxy, "
    "max_ongoing_requests 512, access log off, other options as they come",
)

Say = Callable[[str], None]


def main() -> int:
    """Measure and report; 1 when an answer was wrong or a call failed."""
    options = _options()
    console = Console(stderr=True, highlight=False)
    try:
        wrk.find()
        where = conditions()
        cells = _measure(options, console.print)
    except (wrk.WrkFailed, WrongAnswer, NotReady) as error:
        console.print(f"bench: {error}", markup=False)
        return 1
    where["cells"] = (
        f"{options.seconds} s after {_WARM_UP_SECONDS} s warm-up, medians of {options.passes} passes"
    )
    if options.json:
        found = {"conditions": where, "cells": [asdict(cell) for cell in cells]}
        options.json.write_text(json.dumps(found, indent=1))
    measured = table.rows(cells)
    _report(measured, where, options.markdown)
    return 1 if any(row.errors for row in measured) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench", description=__doc__)
    parser.add_argument("--seconds", type=int, default=5, help="length of a cell")
    parser.add_argument("--connections", type=_numbers, default=[1, 16, 64], help="such as 1,16,64")
    parser.add_argument("--passes", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every cell there")
    parser.add_argument("--markdown", action="store_true", help="write the table for a README")
    options = parser.parse_args()
    if min(options.seconds, options.passes, *options.connections) < 1:
        parser.error("seconds, passes and connections are numbers from 1 up")
    return options


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _measure(options: argparse.Namespace, say: Say) -> list[table.Cell]:
    """Every cell, in the order of the table."""
    turns = len(contenders.NAMES) * len(options.connections) * options.passes
    total = _START_SECONDS + turns * (options.seconds + _WARM_UP_SECONDS + _BETWEEN_SECONDS)
    say(f"{turns} cells: about {total:.0f} s")
    cells: list[table.Cell] = []
    with _all_started() as (field, check):
        for turn in range(options.passes):
            for connections in options.connections:
                for contender in field if turn % 2 == 0 else reversed(field):
                    cell = _cell(contender, connections, options.seconds, check)
                    say(f"pass {turn + 1}, {connections:2} connections: {cell.contender} {cell.rate:,.0f}/s")
                    cells.append(cell)
    order = contenders.NAMES.index
    return sorted(cells, key=lambda cell: (cell.connections, order(cell.contender)))


@contextmanager
def _all_started() -> Iterator[tuple[list[Contender], Check]]:
    """All contenders, up and idle, and the check of their answers; nothing is left at the end."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ksb-")))
        os.environ["RAY_TMPDIR"] = str(directory)  # what Ray leaves on disk goes with the rest
        library = Library(directory / "home")
        models = [library.open(parse_reference(kit)).model_path for kit in (contenders.V1, contenders.V2)]
        servers = (contenders.FLOOR, "loadtests.floor"), (contenders.PLAIN, "loadtests.plain_ray_serve")
        field = [
            *(stack.enter_context(contenders.python_server(*server, models[0])) for server in servers),
            *stack.enter_context(contenders.kitserve(directory)),
        ]
        one, either = checker(models[:1]), checker(models)
        yield field, lambda name, url: (either if name == contenders.CANARY else one)(name, url)


def _cell(contender: Contender, connections: int, seconds: int, check: Check) -> table.Cell:
    check(contender.name, contender.url)
    warm_up = wrk.run(contender.url, BODY, connections, _WARM_UP_SECONDS)
    cpu.settle(contender.processes)
    processes = list(contender.processes())
    before = cpu.seconds(processes)
    load = wrk.run(contender.url, BODY, connections, seconds)
    spent = cpu.seconds(processes) - before
    cpu.settle(contender.processes)
    return table.Cell(contender.name, connections, load, spent, warm_up.errors + load.errors)


def _report(measured: Sequence[table.Row], where: dict[str, str], markdown: bool) -> None:
    if markdown:
        print(table.markdown(measured))
    else:
        shown = Table(*(Column(name, no_wrap=True) for name in table.HEADER))
        for row in measured:
            shown.add_row(*table.texts(row), style="bold red" if row.errors else "")
        Console(highlight=False, width=_WIDTH).print(shown)
    lines = [*table.verdicts(measured), "", *(f"{name}: {text}" for name, text in where.items()), *_HOW]
    print("\n".join(f"- {line}" if line else "" for line in ["", *lines]))


if __name__ == "__main__":
    sys.exit(main())
