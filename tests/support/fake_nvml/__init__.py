"""A stand-in for NVML, for tests without a GPU: write what it tells with `write_gpus`.

A test in one process gives `library()` to `Nvml`. A process of its own finds `pynvml` in this directory,
where it stands first on its PYTHONPATH, and the GPUs in the file that KITSERVE_FAKE_NVML names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

GIB = 1 << 30
FILE_VARIABLE = "KITSERVE_FAKE_NVML"


def gpu(
    uuid: str = "GPU-0", total: float = 24 * GIB, free: float | None = None, **others: Any
) -> dict[str, Any]:
    """Return a GPU of `write_gpus`; a field that is None is one that the GPU does not tell.

    Args:
        uuid: its UUID.
        total: bytes of memory.
        free: what of that is free; absent, all.
        others: any of name, utilization (percent), power (milliwatts), limit, reasons (bits), capability,
            mig (a list of slices, each written by this function), processes (bytes by process).
    """
    return {"uuid": uuid, "total": int(total), "free": int(total if free is None else free), **others}


def write_gpus(
    path: Path, gpus: Sequence[Mapping[str, Any]], driver: str = "580.65.06", cuda: int = 13000
) -> dict[str, str]:
    """Write what NVML tells, whole, into a file; return the environment of a process that reads it."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps({"driver": driver, "cuda": cuda, "gpus": list(gpus)}))
    partial.rename(path)
    return {"PYTHONPATH": str(Path(__file__).parent), FILE_VARIABLE: str(path)}


def library(path: Path) -> ModuleType:
    """Return nvidia-ml-py as it would be on a machine whose GPUs a file tells."""
    source = Path(__file__).with_name("pynvml.py")
    module = ModuleType("pynvml")
    module.__dict__["FILE"] = path
    exec(compile(source.read_text(), str(source), "exec"), module.__dict__)
    return module
