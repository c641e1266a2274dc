"""What the suite does in a process of its own: `main`, with a pickled `Job`.

Each step is a line of JSON in the job's report, written before the next one starts: what is missing there is
what the process did not live through.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import json
import os
import pickle
import resource
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from runtimes.base import Array, Resources, Runtime, TensorModel
from runtimes.errors import InputError, ModelError
from runtimes.select import check, choose
from runtimes.testing.mutations import WAYS, mutated

STEP_SECONDS = 30
"""How long one damaged file may take; then the process ends and says where it was."""
_HEADROOM_BYTES = 8 * 2**30
_BUSY_SECONDS = 0.8
_BUSY_ROWS = 1_024


@dataclass(frozen=True, slots=True)
class Job:
    """One job of a child. `runtime` is its class, as module and name."""

    task: str
    runtime: tuple[str, str]
    model_path: Path
    root: Path
    """What is chosen from: the model's file, or the directory that has all of its files."""
    inputs: Mapping[str, Array]
    report: Path
    scratch: Path
    """An empty directory for damaged files."""
    seeds: tuple[int, ...] = ()
    may_run_code: bool = False


def damage(job: Job, runtime: Runtime, report: TextIO) -> None:
    """Load the model with one of its files damaged, once for each seed; ask it where it loads.

    A report's line is {"seed": …, "outcome": …, "text": …}: `started` before each, then `served`, `refused`
    or `wrong`. The seed -1 is the sample as it is.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + _HEADROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard < 0 else min(limit, hard), hard))
    files = _files(job.root)
    for seed in job.seeds:
        _say(report, seed=seed, outcome="started")
        copy = _copy(job.root, job.scratch / str(seed))
        if seed >= 0:
            # The rest of the seed chooses the way, so the quotient chooses the file.
            victim = files[seed // WAYS % len(files)]
            path = copy / victim if copy.is_dir() else copy
            path.write_bytes(mutated(path.read_bytes(), seed))
        faulthandler.dump_traceback_later(STEP_SECONDS, exit=True)
        outcome, text = _outcome(job, runtime, copy)
        faulthandler.cancel_dump_traceback_later()
        _say(report, seed=seed, outcome=outcome, text=text)
        shutil.rmtree(job.scratch / str(seed))


def _outcome(job: Job, runtime: Runtime, root: Path) -> tuple[str, str]:
    """Return what comes of a model that may be damaged, and the text of the error where there is one."""
    try:
        choice = choose(root, runtimes={runtime.name: runtime}, allow_code=job.may_run_code)
        check(choice)
        model = choice.runtime.load(choice.path, Resources())
    except ModelError as error:
        text = str(error)
        names = {root.name, *(Path(name).name for name in _files(root))}
        is_told = any(name in text for name in names)
        return ("refused" if is_told and "Traceback" not in text else "wrong"), text
    except Exception as error:
        return "wrong", f"loading raises {error!r}, which is no ModelError"
    try:
        assert isinstance(model, TensorModel)
        with np.errstate(all="ignore"):
            model.infer(job.inputs)
    except ModelError as error:
        return "served", str(error)
    except Exception as error:
        return "wrong", f"a call raises {error!r}, which is no ModelError"
    finally:
        model.close()
    return "served", ""


def threads(job: Job, runtime: Runtime, report: TextIO) -> None:
    """Ask a model of one core over and over; report the seconds that each thread of this process computed."""
    model = runtime.load(job.model_path, Resources(cpus=1))
    assert isinstance(model, TensorModel)
    inputs = _many(job.inputs, model)
    model.infer(inputs)
    before, started = _thread_seconds(), time.perf_counter()
    while time.perf_counter() - started < _BUSY_SECONDS:
        model.infer(inputs)
    wall = time.perf_counter() - started
    spent = {thread: seconds - before.get(thread, 0) for thread, seconds in _thread_seconds().items()}
    _say(report, wall=wall, threads=sorted(spent.values(), reverse=True))


def memory(job: Job, runtime: Runtime, report: TextIO) -> None:
    """Load, ask and close a model 13 times; report the resident bytes after the third and the last time."""
    for number in range(13):
        model = runtime.load(job.model_path, Resources())
        assert isinstance(model, TensorModel)
        model.infer(job.inputs)
        model.close()
        del model
        if number in (2, 12):
            _say(report, bytes=_resident_bytes())


def _many(inputs: Mapping[str, Array], model: TensorModel) -> Mapping[str, Array]:
    """Return the rows of a call many times over, where the model takes that."""
    times = max(1, _BUSY_ROWS // len(next(iter(inputs.values()))))
    many = {name: np.concatenate([array] * times) for name, array in inputs.items()}
    try:
        model.infer(many)
    except InputError:
        return inputs
    return many


def _thread_seconds() -> dict[str, float]:
    """Return the seconds that each thread of this process has computed (Linux: schedstat, proc(5))."""
    seconds = {}
    for task in Path("/proc/self/task").iterdir():
        seconds[task.name] = int((task / "schedstat").read_text().split()[0]) / 1e9
    return seconds


def _resident_bytes() -> int:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _files(root: Path) -> list[str]:
    """Return the files below `root`, or its own name where it is one; in an order that is always the same."""
    if root.is_file():
        return [root.name]
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def _copy(root: Path, directory: Path) -> Path:
    directory.mkdir()
    target = directory / root.name
    return Path(shutil.copytree(root, target) if root.is_dir() else shutil.copyfile(root, target))


def _say(report: TextIO, **facts: Any) -> None:
    report.write(json.dumps(facts) + "\n")
    report.flush()


_TASKS = {"damage": damage, "threads": threads, "memory": memory}


def main() -> None:
    """Do the job in the file that the command line names, and end this process."""
    job: Job = pickle.loads(Path(sys.argv[1]).read_bytes())  # noqa: S301
    module, name = job.runtime
    with job.report.open("a") as report:
        _TASKS[job.task](job, getattr(import_module(module), name)(), report)
    # Threads of an engine may not end by themselves.
    os._exit(0)
