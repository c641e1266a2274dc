"""What a measurement was made on; numbers without it say nothing."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from gateway.edge.process import find_haproxy

_PACKAGES = (
    "ray",
    "uvicorn",
    "uvloop",
    "httptools",
    "orjson",
    "numpy",
    "fastapi",
    "onnxruntime-gpu",
    "onnxruntime",
)


def conditions() -> dict[str, str]:
    """The machine and the versions, by name."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "CPU": f"{_cpu()}, {os.cpu_count()} cores, {memory:.0f} GiB",
        "load before": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "packages": ", ".join(found for name in _PACKAGES if (found := _package(name))),
        "programs": f"HAProxy {_version([str(find_haproxy()), '-v'])}, wrk {_version(['wrk', '-v'])}",
    }


def _cpu() -> str:
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found.group(1) if found else platform.machine()


def _package(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return ""


def _version(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"\d+\.\d+[\w.+-]*", done.stdout + done.stderr)
    return found.group(0) if found else "unknown"
