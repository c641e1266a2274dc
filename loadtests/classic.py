"""Measure classic models in one run, in turns: the library alone, MLServer with its runtimes, and Kitserve.

A wrong answer or a failed call fails the run. Speed is only reported.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

import numpy as np
import orjson
import requests
from rich.console import Console

from loadtests import usage, venvs, wrk
from loadtests.calls import Call, WrongAnswer
from loadtests.classic_models import MODELS, ClassicModel
from loadtests.conditions import conditions
from loadtests.contenders import ONE_THREAD, NotReady, server_process
from loadtests.models import Array
from loadtests.table import markdown, number
from loadtests.usage import Processes
from tests.support.artifacts import LayoutBuilder
from tests.support.kitops import pack_kit
from tests.support.kitserve import running
from tests.support.ports import free_port

LIBRARY, MLSERVER, KITSERVE = "the library alone", "MLServer", "Kitserve"
LOADS = (1, 16)
_PEER = "mlserver_classic"
_MINIMUM_RATIO = 5
_ADDED_MS = 0.3
_WARM_UP_SECONDS = 1
_READY_SECONDS = 90


@dataclass(frozen=True, slots=True)
class Cell:
    """What one contender did with one model at one number of connections, 0 for the library, in one pass."""

    model: str
    contender: str
    connections: int
    load: wrk.Load


@dataclass(frozen=True, slots=True)
class _Server:
    """A server that is measured: the address of a model by its name, and all of its processes."""

    name: str
    url: Callable[[str], str]
    processes: Processes


def main() -> int:
    """Measure and report. Return 1 when an answer was wrong or a call failed, else 0."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.classic", description=__doc__)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3, help="length of a cell")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="where the files of a run go")
    options = parser.parse_args()
    console = Console(stderr=True, highlight=False, width=140)
    options.out.mkdir(parents=True, exist_ok=True)
    facts = {**conditions(), "libraries": _libraries(), "cells": _method(options)}
    try:
        # Ray's sockets lie below it, and their paths may not be long.
        with tempfile.TemporaryDirectory(prefix="ksc-") as directory:
            files = {model.name: Path(directory, model.file) for model in MODELS.values()}
            for model in MODELS.values():
                model.make(files[model.name])
            with _mlserver(Path(directory), files) as peer, _kitserve(Path(directory), files) as kitserve:
                cells = list(_measure((peer, kitserve), files, options, console))
    except (NotReady, WrongAnswer, wrk.WrkFailed, venvs.NotInstalled) as error:
        console.print(f"classic: {error}", markup=False)
        return 1
    run = {"conditions": facts, "cells": [asdict(cell) for cell in cells]}
    (options.out / "classic.json").write_text(json.dumps(run, indent=1))
    text = report(cells, facts)
    (options.out / "classic.md").write_text(text)
    print(text)
    return 1 if any(cell.load.errors for cell in cells) else 0


def _libraries() -> str:
    return ", ".join(f"{name} {version(name)}" for name in ("scikit-learn", "xgboost-cpu", "numpy"))


def _method(options: argparse.Namespace) -> str:
    return (
        f"{options.seconds} s after {_WARM_UP_SECONDS} s warm-up, medians of {options.passes} passes; wrk "
        "with 1 thread, kept connections, the next call after each answer, on the same cores; one row a "
        "call, as JSON; `predict` alone is asked for; one thread computes in each; no log of calls"
    )


@contextmanager
def _mlserver(directory: Path, files: Mapping[str, Path]) -> Iterator[_Server]:
    """Start MLServer with both models."""
    port = free_port()
    arguments = [str(port), *(str(files[name]) for name in MODELS)]
    command = [str(venvs.python(_PEER)), str(venvs.script(_PEER)), *arguments]
    with server_process(MLSERVER, command, port, directory / "mlserver.log") as started:
        server = _Server(
            MLSERVER, lambda name: f"http://127.0.0.1:{port}/v2/models/{name}/infer", started.processes
        )
        _wait(server, started.ended)
        yield server


@contextmanager
def _kitserve(directory: Path, files: Mapping[str, Path]) -> Iterator[_Server]:
    """Start Kitserve with a kit of each model, each on a worker of its own, with no policy written."""
    builder = LayoutBuilder(directory / "kits")
    with running(directory) as kitserve:
        for name, file in files.items():
            pack_kit(builder, f"{name}:v1", ("model", file.name, {file.name: file.read_bytes()}))
            kitserve.models[name] = {"kit": f"oci-layout:{builder.directory}:{name}:v1"}
        kitserve.settings["access_log"] = "off"
        try:
            kitserve.start()
        except AssertionError as error:
            raise NotReady(f"Kitserve did not start: {error}") from error

        def processes() -> list[int]:
            return [worker for name in files for worker in kitserve.workers(name)]

        server = _Server(KITSERVE, lambda name: f"{kitserve.url}/v2/models/{name}/infer", processes)
        _wait(server, lambda: "")
        yield server


def _call(model: ClassicModel) -> Call:
    """Return the call with a row of the model, in the Open Inference Protocol."""
    row = model.row()
    tensor = {"name": "input", "shape": row.shape, "datatype": model.datatype, "data": row.ravel()}
    document = {"inputs": [tensor], "outputs": [{"name": "predict"}]}
    body = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    return Call(body, {"Content-Type": "application/json"})


def _ask(server: _Server, model: ClassicModel) -> requests.Response:
    call = _call(model)
    return requests.post(server.url(model.name), call.body, headers=dict(call.headers), timeout=20)


def _wait(server: _Server, ended: Callable[[], str]) -> None:
    """Wait until the server answers for all models. Raises NotReady."""
    deadline = time.monotonic() + _READY_SECONDS
    for model in MODELS.values():
        last = "no answer"
        while True:
            if why := ended():
                raise NotReady(why)
            if time.monotonic() > deadline:
                raise NotReady(f"{server.name} was not ready after {_READY_SECONDS} s: {model.name}: {last}")
            try:
                answer = _ask(server, model)
            except requests.RequestException as error:
                last = str(error)
            else:
                if answer.status_code == 200:
                    break
                last = answer.text[:300]
            time.sleep(0.2)


def _measure(
    servers: Sequence[_Server], files: Mapping[str, Path], options: argparse.Namespace, console: Console
) -> Iterator[Cell]:
    for model in MODELS.values():
        truth = np.asarray(model.load(files[model.name])(model.row()))
        for server in servers:
            _check(server, model, truth)
    for index in range(options.passes):
        for model in MODELS.values():
            cells = [_alone(model, files[model.name], options.seconds)]
            for connections in LOADS:
                # The order turns, so that none is always first.
                turn = servers if index % 2 == 0 else servers[::-1]
                cells += [_cell(model, server, connections, options.seconds) for server in turn]
            for cell in cells:
                console.print(
                    f"pass {index + 1}, {cell.model}, {cell.connections:2} connections: {cell.contender} "
                    f"{cell.load.rate:,.0f}/s, p50 {cell.load.p50_ms:.3f} ms"
                    + (f", {cell.load.errors} FAILED" if cell.load.errors else "")
                )
                yield cell


def _check(server: _Server, model: ClassicModel, truth: Array) -> None:
    """Call the server once. Raises WrongAnswer where it does not say what the library says."""
    answer = _ask(server, model)
    outputs = {output["name"]: output["data"] for output in answer.json().get("outputs", [])}
    if answer.status_code != 200 or not np.array_equal(np.ravel(outputs.get("predict", [])), truth.ravel()):
        raise WrongAnswer(f"{server.name}, {model.name}: {answer.text[:300]}; the library says {truth}")


def _alone(model: ClassicModel, file: Path, seconds: int) -> Cell:
    command = [sys.executable, "-m", "loadtests.classic_models", model.name, str(file), str(seconds)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, **ONE_THREAD}
    )
    return Cell(model.name, LIBRARY, 0, wrk.Load(**json.loads(done.stdout)))


def _cell(model: ClassicModel, server: _Server, connections: int, seconds: int) -> Cell:
    url, call = server.url(model.name), _call(model)
    wrk.run(url, call, connections, _WARM_UP_SECONDS)
    usage.settle(server.processes)
    load = wrk.run(url, call, connections, seconds)
    usage.settle(server.processes)
    return Cell(model.name, server.name, connections, load)


def report(cells: Sequence[Cell], facts: Mapping[str, str]) -> str:
    """Return the table of a run in Markdown, whether the goals were reached, and the conditions."""
    columns = ["", "1: requests/s", "p50 ms", "p99 ms", "16: requests/s", "p50 ms", "p99 ms"]
    written = []
    for model in MODELS.values():
        lines = []
        for contender in (LIBRARY, MLSERVER, KITSERVE):
            loads = (0,) if contender == LIBRARY else LOADS
            groups = [_group(cells, model.name, contender, connections) for connections in loads]
            figures = [text for group in groups for text in _figures(group)]
            lines.append([contender, *figures, *[""] * (len(columns) - 1 - len(figures))])
        written += [f"**{model.title}**", markdown(lines, columns)]
    notes = [verdict for model in MODELS.values() for verdict in verdicts(cells, model.name)]
    notes += [f"{name}: {fact}" for name, fact in facts.items()]
    return "\n\n".join([*written, "\n".join(f"- {note}" for note in notes)]) + "\n"


def verdicts(cells: Sequence[Cell], model: str) -> list[str]:
    """Return a line for each goal of a model; each pass is compared with itself."""
    peers, ours = (_group(cells, model, contender, LOADS[-1]) for contender in (MLSERVER, KITSERVE))
    ratios = [own.load.rate / peer.load.rate for own, peer in zip(ours, peers, strict=True)]
    alone, lone = _group(cells, model, LIBRARY, 0), _group(cells, model, KITSERVE, 1)
    added = [own.load.p50_ms - base.load.p50_ms for own, base in zip(lone, alone, strict=True)]
    return [
        f"{_word(median(ratios) >= _MINIMUM_RATIO)}: {model}: at least {_MINIMUM_RATIO} times MLServer at "
        f"{LOADS[-1]} connections ({median(ratios):.1f}; passes {min(ratios):.1f} to {max(ratios):.1f})",
        f"{_word(median(added) <= _ADDED_MS)}: {model}: a lone caller waits at most {_ADDED_MS} ms longer "
        f"than for the library alone ({median(added):+.3f} ms; {min(added):+.3f} to {max(added):+.3f})",
    ]


def _word(is_reached: bool) -> str:
    return "met" if is_reached else "MISSED"


def _group(cells: Sequence[Cell], model: str, contender: str, connections: int) -> list[Cell]:
    key = (model, contender, connections)
    return [cell for cell in cells if (cell.model, cell.contender, cell.connections) == key]


def _figures(group: Sequence[Cell]) -> list[str]:
    return [
        number(median(cell.load.rate for cell in group)),
        number(median(cell.load.p50_ms for cell in group)),
        number(median(cell.load.p99_ms for cell in group)),
    ]


if __name__ == "__main__":
    sys.exit(main())
