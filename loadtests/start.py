"""Measure how Kitserve and MLServer start with few and with many small models, in turns.

Each start is a process that begins with nothing loaded; the kits are in an OCI layout on this disk. A model
has started once it has answered a call.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import yaml
from rich.console import Console

from loadtests import start_plot, venvs
from loadtests.calls import OIP_JSON, Call
from loadtests.conditions import conditions
from loadtests.contenders import KITSERVE, MLSERVER, NotReady, Started, server_process
from loadtests.models import flowers
from loadtests.table import number
from loadtests.usage import cpu_seconds, pss_mib, settle
from tests.support.artifacts import LayoutBuilder, tar
from tests.support.ports import free_port

COUNTS = (1, 20, 100)
_PEER = "mlserver"
_READY_SECONDS = 300
_IDLE_SECONDS = 10.0
_ROUND_SECONDS = 0.05
# So many models are asked in one round: the questions must not take the machine from those that start.
_ASKED = 8
_COLUMNS = ("first answer s", "all answer s", "PSS MiB", "idle % of a core", "processes")


@dataclass(frozen=True, slots=True)
class Start:
    """One start of one contender with so many models."""

    contender: str
    models: int
    first_seconds: float
    """From the start of the process to the first answer of a model."""
    all_seconds: float
    """From the start of the process until each model has answered."""
    pss_mib: float
    idle_percent: float
    """CPU time of all processes while nobody calls, as a share of one core."""
    processes: int

    def figures(self) -> tuple[float, ...]:
        """Return what the columns of the table show."""
        return self.first_seconds, self.all_seconds, self.pss_mib, self.idle_percent, float(self.processes)


@contextmanager
def kitserve(directory: Path, count: int) -> Iterator[tuple[float, Started]]:
    """Start Kitserve with so many models of one kit, from a home that is new; yields when it was started."""
    builder = LayoutBuilder(directory / "layout")
    builder.kit("start/model:v1", tar(("model/model.onnx", flowers().onnx)))
    kit, port = f"oci-layout:{builder.directory}:start/model:v1", free_port()
    config = directory / "kitserve.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "listen": f"127.0.0.1:{port}",
                "admin": f"127.0.0.1:{free_port()}",
                "access_log": "off",
                "models": [{"name": name, "kit": kit} for name in names(count)],
            }
        )
    )
    command = [sys.executable, "-m", "gateway.cli", "serve", str(config), "--home", str(directory / "home")]
    began = time.monotonic()
    with server_process(KITSERVE, command, port, directory / "kitserve.log") as server:
        yield began, server


@contextmanager
def mlserver(directory: Path, count: int) -> Iterator[tuple[float, Started]]:
    """Start MLServer with so many models, all in its one process; yields when it was started."""
    file, port = directory / "model.onnx", free_port()
    file.write_bytes(flowers().onnx)
    command = [str(venvs.python(_PEER)), str(venvs.script(_PEER)), str(port), str(file), str(count)]
    began = time.monotonic()
    with server_process(MLSERVER, command, port, directory / "mlserver.log") as server:
        yield began, server


SERVERS = {KITSERVE: kitserve, MLSERVER: mlserver}


def names(count: int) -> list[str]:
    """Return the names of so many models."""
    return [f"m{number}" for number in range(count)]


def main() -> int:
    """Measure, print and write the table and the curve; returns 0."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.start", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", type=int, nargs="+", default=list(COUNTS), help="how many, in turns")
    parser.add_argument("--servers", nargs="+", choices=list(SERVERS), default=list(SERVERS))
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="where the files of a run go")
    options = parser.parse_args()
    console = Console(stderr=True, highlight=False, width=140)
    facts = conditions()
    starts: list[Start] = []
    servers = list(options.servers)
    for turn in range(options.rounds):
        for count in options.models:
            for name in servers[:: 1 if turn % 2 else -1]:
                try:
                    starts.append(measure(name, count))
                except venvs.NotInstalled as error:
                    console.print(f"{name} is left out: {error}")
                    servers.remove(name)
                    continue
                console.print(f"round {turn + 1}: {starts[-1]}")
    options.out.mkdir(parents=True, exist_ok=True)
    document = {"conditions": facts, "starts": [asdict(start) for start in starts]}
    (options.out / "start.json").write_text(json.dumps(document, indent=1))
    text = "\n".join(table(starts))
    (options.out / "start.md").write_text(text + "\n")
    start_plot.draw(curves(starts), options.out / "start.svg")
    print(text)
    return 0


def measure(name: str, count: int) -> Start:
    """Start a server once, and look at it once it is idle.

    Raises:
        NotReady: when a model does not answer.
        NotInstalled: when the server cannot be installed.
    """
    with (
        tempfile.TemporaryDirectory(prefix="kss-") as directory,
        SERVERS[name](Path(directory), count) as (began, server),
    ):
        first, last = wait_for_answers(server, names(count), began)
        settle(server.processes)
        processes = server.processes()
        before = cpu_seconds(processes)
        time.sleep(_IDLE_SECONDS)
        idle = 100 * (cpu_seconds(processes) - before) / _IDLE_SECONDS
        return Start(name, count, first, last, pss_mib(processes), idle, len(processes))


def wait_for_answers(server: Started, models: Sequence[str], began: float) -> tuple[float, float]:
    """Call each model until it has answered; returns when the first and when the last did, after `began`."""
    call = OIP_JSON.call(flowers().inputs[0])
    waiting = list(models)
    first = 0.0
    while waiting:
        asked, others = waiting[:_ASKED], waiting[_ASKED:]
        unanswered = [model for model in asked if not answers(server.port, model, call)]
        passed = time.monotonic() - began
        if len(unanswered) < len(asked):
            first = first or passed
        # Those that were not asked now come first in the next round.
        waiting = others + unanswered
        if why := server.ended():
            raise NotReady(why)
        if passed > _READY_SECONDS:
            raise NotReady(f"{server.name}: {len(waiting)} models have not answered after {_READY_SECONDS} s")
        if waiting:
            time.sleep(_ROUND_SECONDS)
    return first, time.monotonic() - began


def answers(port: int, model: str, call: Call) -> bool:
    """Tell whether a model answers a call."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("POST", f"/v2/models/{model}/infer", call.body, dict(call.headers))
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return answer.status == 200


def table(starts: Sequence[Start]) -> list[str]:
    """Return the lines of a table in Markdown: for each figure, its minimum and its median."""
    lines = [
        "|  | models | " + " | ".join(_COLUMNS) + " |",
        "| --- | ---: |" + " ---: |" * len(_COLUMNS),
    ]
    for (name, count), group in grouped(starts).items():
        columns = zip(*(start.figures() for start in group), strict=True)
        cells = [f"{number(min(column))} / {number(median(column))}" for column in map(list, columns)]
        lines.append(f"| {name} | {count} | " + " | ".join(cells) + " |")
    return lines


def curves(starts: Sequence[Start]) -> dict[str, start_plot.Curve]:
    """Return the medians by contender, in the order of the numbers of models."""
    groups = grouped(starts)
    drawn = {}
    for name in dict.fromkeys(name for name, _ in groups):
        of_name = [group for (contender, _), group in groups.items() if contender == name]
        drawn[name] = start_plot.Curve(
            tuple(float(group[0].models) for group in of_name),
            tuple(median(start.first_seconds for start in group) for group in of_name),
            tuple(median(start.all_seconds for start in group) for group in of_name),
            tuple(median(start.pss_mib for start in group) for group in of_name),
        )
    return drawn


def grouped(starts: Sequence[Start]) -> Mapping[tuple[str, int], list[Start]]:
    """Return the starts by contender and number of models, in that order."""
    keys = sorted({(start.contender, start.models) for start in starts})
    return {key: [start for start in starts if (start.contender, start.models) == key] for key in keys}


if __name__ == "__main__":
    sys.exit(main())
