"""The machine and the versions that a measurement was made with; numbers mean nothing without them."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from gateway.edge.haproxy_program import find_haproxy

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
    """Return the facts about the machine and the versions, by name."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "CPU": f"{_cpu()}, {os.cpu_count()} cores, {memory:.0f} GiB",
        "load before": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "packages": ", ".join(package for name in _PACKAGES if (package := _package(name))),
        "programs": f"HAProxy {_version([str(find_haproxy().path), '-v'])}, wrk {_version(['wrk', '-v'])}",
    }


def _cpu() -> str:
    match = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return match.group(1) if match else platform.machine()


def _package(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return ""


def _version(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return "absent"
    match = re.search(r"\d+\.\d+[\w.+-]*", done.stdout + done.stderr)
    return match.group(0) if match else "unknown"
