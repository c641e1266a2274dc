"""`kitserve doctor`: what a user of GPUs must know of this machine, and what to mend."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli.config_files import read_file
from gateway.cli.options import FAILED, Home, Output, OutputFormat, err, out, print_json
from gateway.wording import counted, size

FORMAT = 1


def doctor(
    home: Home,
    file: Annotated[
        Path | None,
        typer.Argument(help="A config: what do its models need?", metavar="[FILE]", show_default=False),
    ] = None,
    output: OutputFormat = Output.TEXT,
) -> None:
    """Say what GPUs are here, and what keeps models off them.

    With FILE, also what each of its models would need. Nothing is changed, and no Kitserve is asked. The exit
    code is 1 where something is to be mended; with FILE, where that matters to one of its models.
    """
    # Imported here, as the engines come with it.
    from gateway.gpus.diagnosis import machine_faults, verdicts
    from gateway.gpus.nvml import read_gpus
    from runtimes.gpu_libraries import engines, libraries

    config = None if file is None else read_file(file, is_locked=False)
    models = []
    # A line on a terminal, and nothing elsewhere.
    with err.status("asking the driver", spinner="line") as line:
        gpus = read_gpus()
        line.update("importing ONNX Runtime and PyTorch")
        installed, brought = engines(), libraries()
        if config is not None:
            line.update("reading the models' files")
            from gateway.cli.model_demands import model_demands

            models = list(model_demands(config, home))
    judged = list(verdicts(models, gpus, os.environ.get("CUDA_VISIBLE_DEVICES")))
    of_machine = list(machine_faults(gpus, installed, brought))
    matters = config is None or any(model.wants_gpu and not model.may_use_cpu for model in models)
    faults = [*(of_machine if matters else ()), *(verdict.fault for verdict in judged if verdict.fault)]
    document = {
        "format": FORMAT,
        "driver": gpus.driver,
        "cuda": gpus.cuda,
        "gpus": [asdict(gpu) for gpu in gpus],
        "engines": [asdict(engine) for engine in installed],
        "libraries": dict(brought),
        "models": [asdict(verdict) for verdict in judged],
        "notes": [] if matters else of_machine,
        "faults": faults,
    }
    if output is Output.JSON:
        print_json(document)
    else:
        for text, style in _lines(document):
            out.print(text, style=style, markup=False, highlight=False)
    if faults:
        raise typer.Exit(FAILED)


def _lines(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what is told, line by line, each with its style."""
    driver = f"{document['driver']}, for CUDA {document['cuda']} at most" if document["driver"] else "none"
    yield f"driver: {driver}", ""
    for gpu in document["gpus"]:
        mig = f", MIG with {counted(len(gpu['slices']), 'slice')}" if gpu["is_mig"] else ""
        yield f"GPU {gpu['index']}: {gpu['name'] or 'no name'} {gpu['uuid']}, {_memory(gpu)}{mig}", ""
        for part in gpu["slices"]:
            yield f"  slice: {part['name']} {part['uuid']}, {_memory(part)}", ""
    for engine in document["engines"]:
        cuda = f"for CUDA {engine['cuda']}" if engine["cuda"] else "without CUDA"
        providers = f": {', '.join(engine['providers'])}" if engine["providers"] else ""
        yield f"{engine['name']} {engine['version']}, {cuda}{providers}", ""
    brought = ", ".join(f"{name} {version}" for name, version in document["libraries"].items())
    yield f"packages bring: {brought or 'neither CUDA nor cuDNN'}", ""
    for model in document["models"]:
        devices = ", ".join(model["devices"]) or "not known"
        yield f"{model['model']} ({model['version']}): {devices}; on a GPU it needs {model['needs']}", ""
    for note in document["notes"]:
        yield f"note: {note}", "dim"
    for fault in document["faults"]:
        yield f"to mend: {fault}", "red"
    if document["faults"] and not document["gpus"] and not document["models"]:
        yield "without a GPU, models are served on the CPU, but for those that must have one", "dim"
    if not document["faults"]:
        yield "nothing to mend", "green"


def _memory(device: dict[str, Any]) -> str:
    return f"{size(device['free'])} free of {size(device['total'])}"
