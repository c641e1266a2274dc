"""Measure and prove Kitserve on a GPU, in at most five minutes; without one, the same on CPUs, and smaller.

What fails is told and fails the run; the steps after it are made all the same. Speed is only reported.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np
import requests

from gateway.gpus.nvml import read_gpus
from gateway.wording import counted
from loadtests import closed_loop, wrk
from loadtests.calls import OIP_BINARY
from loadtests.conditions import conditions
from loadtests.gpu_models import GpuModel, hungry_model, onnx_model, torch_model
from loadtests.gpu_report import DIRECTLY, Cell, Run, report
from tests.support.artifacts import LayoutBuilder, tar
from tests.support.kitserve import Running, running

KITSERVE = "Kitserve"
_MIB = 1024 * 1024
_SHARE = "6GiB"
_HUNGRY_SHARE = "3GiB"
_HUNGRY_ROWS = 2048
_CPU_MEMORY = "1GiB"
_FAR_TOO_MUCH = "4096GiB"
_ROLLOUT_SECONDS = 60
_DIRECT_PATIENCE = 120


@dataclass(frozen=True, slots=True)
class Scale:
    """How large a run is."""

    has_gpu: bool
    is_small: bool
    loads: tuple[int, ...]
    seconds: float
    has_doctor: bool = True


class Failed(Exception):
    """A step that did not end as it should."""


@dataclass(slots=True)
class Steps:
    """The steps of a run: each has its time and its findings; one that fails is a fault of the run."""

    run: Run
    names: list[str] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[list[str]]:
        """Make one step; its findings are appended to what is yielded."""
        findings: list[str] = []
        began = time.monotonic()
        self.names.append(name)
        print(f"gpu: {name} …", file=sys.stderr, flush=True)
        try:
            yield findings
        except (
            Failed,
            AssertionError,
            requests.RequestException,
            OSError,
            subprocess.SubprocessError,
            wrk.WrkFailed,
        ) as error:
            self.run.faults.append(f"{name}: {' '.join(str(error).split())[:1000]}")
        self.run.steps[name] = {"seconds": round(time.monotonic() - began, 1), "findings": findings}


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the run and report it. Return 1 when a step failed, else 0."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.gpu", description=__doc__)
    parser.add_argument("--small", action="store_true", help="tiny models and short loads; so on CPUs")
    parser.add_argument("--no-doctor", action="store_true", help="do not ask `kitserve doctor`")
    parser.add_argument("--seconds", type=float, help="length of a cell")
    parser.add_argument("--connections", default="", help="such as 1,16,64")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="where the files of a run go")
    options = parser.parse_args(arguments)
    has_gpu = bool(read_gpus())
    is_small = options.small or not has_gpu
    loads = tuple(int(count) for count in options.connections.split(",") if count)
    scale = Scale(
        has_gpu,
        is_small,
        loads or (1, 16, 64),
        options.seconds or (1.0 if is_small else 4.0),
        not options.no_doctor,
    )
    run = measured(scale)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "gpu.json").write_text(json.dumps(asdict(run), indent=1))
    text = report(run)
    (options.out / "gpu.md").write_text(text)
    print(text)
    return 1 if run.faults else 0


def measured(scale: Scale) -> Run:
    """Make all steps of a run."""
    run = Run({**conditions(), **_devices()})
    steps = Steps(run)
    if scale.has_doctor:
        with steps.step("doctor") as findings:
            findings += _doctor()
    # Ray's sockets lie below it, and their paths may not be long.
    with tempfile.TemporaryDirectory(prefix="ksg-") as directory:
        place = Path(directory)
        os.environ["RAY_TMPDIR"] = directory
        models = [onnx_model(is_small=scale.is_small), torch_model(1, is_small=scale.is_small)]
        for model in models:
            with steps.step(f"{model.name} called directly"):
                run.cells.extend(_direct(place, model, scale))
        layout = _packed(place, [*models, hungry_model()], scale)
        with running(place) as serve:
            _serve(serve, layout, models, scale, steps)
    return run


def _serve(serve: Running, layout: Path, models: Sequence[GpuModel], scale: Scale, steps: Steps) -> None:
    for model in models:
        serve.models[model.name] = _entry(layout, model, scale)
    bound = {"gpus": 0.1, "gpu_memory": _HUNGRY_SHARE} if scale.has_gpu else {"memory": _CPU_MEMORY}
    serve.models["hungry"] = _entry(layout, hungry_model(), scale, **bound)
    with steps.step("workers share the device") as findings:
        serve.start()
        status = serve.wait(_is_ready)
        findings += [f"{model['name']}: {_workers(model)}" for model in status["models"]]
        findings.append(f"memory of GPUs in use: {_used()} MiB")
    for model in models:
        with steps.step(f"{model.name} through Kitserve"):
            for connections in scale.loads:
                load = _loaded(serve, model, connections, scale.seconds)
                steps.run.cells.append(Cell(model.name, KITSERVE, connections, load, _used()))
                if load.errors:
                    raise Failed(f"{load.errors} of {load.requests} calls failed")
    with steps.step("a rollout under load") as findings:
        findings += _rolled_out(serve, layout, models[1], scale)
    with steps.step("one that does not fit is refused") as findings:
        findings.append(_refused(serve, layout, scale))
    with steps.step("a call without memory") as findings:
        findings += _starved(serve, scale)


def _entry(layout: Path, model: GpuModel, scale: Scale, tag: str = "v1", **resources: Any) -> dict[str, Any]:
    """Return a model of the config: on a GPU with a share of its memory."""
    own = {"gpus": 0.3, "gpu_memory": _SHARE} if scale.has_gpu else {}
    return {
        "kit": f"oci-layout:{layout}:bench/{model.name}:{tag}",
        **model.stated,
        "resources": {"cpus": 1, **own, **resources},
        "batching": {"max_batch_size": 64, "max_delay": 0},
    }


def _packed(place: Path, models: Sequence[GpuModel], scale: Scale) -> Path:
    """Pack each model as a kit, and a second version of the one that is rolled out."""
    builder = LayoutBuilder(place / "layout")
    for model in models:
        builder.kit(f"bench/{model.name}:v1", tar((model.path, model.data)))
    second = torch_model(2, is_small=scale.is_small)
    builder.kit(f"bench/{second.name}:v2", tar((second.path, second.data)))
    return builder.directory


def _doctor() -> list[str]:
    command = [sys.executable, "-m", "gateway.cli", "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return [f"exit code {done.returncode}", *done.stdout.splitlines()]


def _direct(place: Path, model: GpuModel, scale: Scale) -> list[Cell]:
    """Measure the engine in a process of its own, which holds memory of the GPU only meanwhile."""
    file, inputs = place / f"{model.name}.model", place / f"{model.name}.npz"
    file.write_bytes(model.data)
    np.savez(inputs, **dict(model.inputs))  # type: ignore[arg-type]  # of names, not of `allow_pickle`
    counts = ",".join(map(str, scale.loads))
    arguments = [
        model.runtime,
        str(file),
        str(inputs),
        "1" if scale.has_gpu else "0",
        counts,
        str(scale.seconds),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "loadtests.gpu_direct", *arguments],
        capture_output=True,
        text=True,
        timeout=_DIRECT_PATIENCE + scale.seconds * len(scale.loads),
        check=False,
        cwd=Path(__file__).parents[1],
    )
    if done.returncode:
        raise Failed(done.stderr[-800:])
    document = json.loads(done.stdout)
    return [
        Cell(model.name, DIRECTLY, int(count), wrk.Load(**load), document["gpu_bytes"] // _MIB)
        for count, load in document["loads"].items()
    ]


def _loaded(serve: Running, model: GpuModel, connections: int, seconds: float) -> wrk.Load:
    url = f"{serve.url}/v2/models/{model.name}/infer"
    call = OIP_BINARY.call(model.inputs["input"])
    closed_loop.run(url, call, connections, min(1.0, seconds))
    return closed_loop.run(url, call, connections, seconds)


def _rolled_out(serve: Running, layout: Path, model: GpuModel, scale: Scale) -> list[str]:
    """Roll a second version out while calls go on; no call may fail."""
    loads: list[wrk.Load] = []
    stopped = threading.Event()

    def call() -> None:
        while not stopped.is_set():
            loads.append(_loaded(serve, model, 4, scale.seconds))

    caller = threading.Thread(target=call)
    caller.start()
    try:
        began = time.monotonic()
        serve.models[model.name] = {
            **_entry(layout, model, scale, tag="v2"),
            "rollout": {"steps": [{"weight": 50, "for": "1s"}]},
        }
        serve.apply()
        # With both versions on one GPU.
        serve.wait(lambda status: _stable_tag(status, model.name) == "v2", _ROLLOUT_SECONDS)
        spent = time.monotonic() - began
    finally:
        stopped.set()
        caller.join()
    calls, errors = sum(load.requests for load in loads), sum(load.errors for load in loads)
    if errors:
        raise Failed(f"{errors} of {calls} calls failed during a rollout")
    return [f"{spent:.1f} s from apply to the end; {counted(calls, 'call')} meanwhile, none failed"]


def _refused(serve: Running, layout: Path, scale: Scale) -> str:
    """Apply a model that no device here has room for; return how it is refused, at once or by its worker."""
    share = {"gpu_memory": _FAR_TOO_MUCH} if scale.has_gpu else {"gpus": 64}
    serve.models["giant"] = _entry(layout, onnx_model(is_small=scale.is_small), scale, **share)
    try:
        done = serve.apply(check=False)
        if done.returncode:
            return " ".join((done.stdout + done.stderr).split())[-600:]
        status = serve.wait(lambda status: _model(status, "giant")["state"] in ("failed", "ready"))
        giant = _model(status, "giant")
        if giant["state"] == "ready":
            raise Failed("it was served")
        return str(giant["message"])[-600:]
    finally:
        del serve.models["giant"]


def _starved(serve: Running, scale: Scale) -> list[str]:
    """Have a call need more memory than its worker may use, and others be answered before and after."""
    row = hungry_model().inputs["input"]
    url = f"{serve.url}/v2/models/hungry/infer"
    findings = []
    wanted = HTTPStatus.SERVICE_UNAVAILABLE if scale.has_gpu else HTTPStatus.INSUFFICIENT_STORAGE
    for rows, expected in ((1, HTTPStatus.OK), (_HUNGRY_ROWS, wanted), (1, HTTPStatus.OK)):
        call = OIP_BINARY.call(np.repeat(row, rows, axis=0))
        answer = requests.post(url, call.body, headers=dict(call.headers), timeout=60)
        retry = answer.headers.get("retry-after", "")
        findings.append(f"{rows} rows: {answer.status_code}" + (f", Retry-After {retry}" if retry else ""))
        if answer.status_code != expected:
            raise Failed(f"{findings[-1]} in place of {expected}: {answer.text[:300]}")
    return findings


def _is_ready(status: dict[str, Any]) -> bool:
    return all(model["state"] == "ready" for model in status["models"])


def _stable_tag(status: dict[str, Any], name: str) -> str:
    model = _model(status, name)
    tags = [version["tag"] for version in model["versions"] if version["role"] == "stable"]
    return tags[0] if len(model["versions"]) == 1 and tags else ""


def _model(status: dict[str, Any], name: str) -> dict[str, Any]:
    model: dict[str, Any] = next(model for model in status["models"] if model["name"] == name)
    return model


def _workers(model: dict[str, Any]) -> str:
    """Return what the status says of a model's workers, without what they have given up."""
    version = model["versions"][0]
    workers = [
        {name: value for name, value in worker.items() if "contained" not in name and value}
        for worker in version["workers"]
    ]
    return json.dumps({"runtime": version["runtime"], "note": version["note"], "workers": workers})


def _used() -> int:
    """Return how many MiB of all GPUs are in use."""
    return sum(gpu.used or 0 for gpu in read_gpus()) // _MIB


def _devices() -> dict[str, str]:
    gpus = read_gpus()
    names = [f"{gpu.name}, {(gpu.total or 0) // _MIB:,} MiB" for gpu in gpus]
    return {"GPUs": "; ".join(names) or f"none ({gpus.trouble})", "driver": gpus.driver or "none"}


if __name__ == "__main__":
    sys.exit(main())
