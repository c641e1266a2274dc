"""Measure how a kit is pulled: Kitserve beside skopeo, and oras where it is installed, on loopback.

A kit of 1 GiB in 8 layers comes from Debian's docker-registry, first into an empty directory (cold), then
with one layer changed into the same directory (delta). skopeo and oras copy; Kitserve also unpacks.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from loadtests.conditions import conditions
from tests.support.artifacts import MODELKIT, LayoutBuilder, tar
from tests.support.registry import run_registry

_LAYERS = 8
_LOOK_SECONDS = 0.01
_KITSERVE, _SKOPEO, _ORAS = "kitserve pull", "skopeo copy", "oras copy"
_PROGRAMS = (("skopeo", "--version"), ("oras", "version"), ("docker-registry", "--version"))
_HEADER = ("contender", "cold s", "delta s", "delta / cold", "CPU s", "peak MiB", "above idle MiB")


@dataclass(frozen=True, slots=True)
class Contender:
    """A program. `command` returns the command that pulls a tag of the kit from a host into a directory."""

    name: str
    command: Callable[[str, str, Path], list[str]]


@dataclass(frozen=True, slots=True)
class Run:
    """What one process took: seconds, CPU seconds, and its largest resident memory in MiB."""

    seconds: float
    cpu_seconds: float
    peak_mib: float


@dataclass(frozen=True, slots=True)
class Pass:
    """One contender's turn: cold, delta, and once more with nothing to do."""

    contender: str
    cold: Run
    delta: Run
    idle: Run


def main() -> int:
    """Measure and report."""
    options = argparse.ArgumentParser(prog="python -m loadtests.pull", description=__doc__)
    options.add_argument("--mib", type=int, default=1024, help="size of the kit")
    options.add_argument("--passes", type=int, default=3)
    given = options.parse_args()
    facts = conditions()
    facts["pulled with"] = ", ".join(_version(*command) for command in _PROGRAMS)
    passes = _measure(_contenders(), given.mib, given.passes)
    print(_table(passes))
    print("\n".join(["", *_verdicts(passes), *(f"- {name}: {text}" for name, text in facts.items())]))
    return 0


def _version(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return f"{command[0]} is not installed"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return " ".join((done.stdout or done.stderr).split()[:4])


def _contenders() -> list[Contender]:
    kitserve = [sys.executable, "-m", "gateway.cli", "pull", "--plain-http", "--home"]
    contenders = [
        Contender(_KITSERVE, lambda host, tag, target: [*kitserve, str(target), f"{host}/team/large:{tag}"]),
        Contender(
            _SKOPEO,
            lambda host, tag, target: [
                *("skopeo", "copy", "--quiet", "--src-tls-verify=false"),
                f"docker://{host}/team/large:{tag}",
                f"oci:{target}:{tag}",
            ],
        ),
        Contender(
            _ORAS,
            lambda host, tag, target: [
                *("oras", "copy", "--no-tty", "--from-plain-http", f"{host}/team/large:{tag}"),
                *("--to-oci-layout", f"{target}:{tag}"),
            ],
        ),
    ]
    return [contender for contender in contenders if contender.name == _KITSERVE or _is_installed(contender)]


def _is_installed(contender: Contender) -> bool:
    return shutil.which(contender.name.split()[0]) is not None


def _measure(contenders: Sequence[Contender], mib: int, turns: int) -> list[Pass]:
    passes = []
    with tempfile.TemporaryDirectory(prefix="ksp-") as directory, _registry(Path(directory), mib) as host:
        for turn in range(turns):
            for contender in contenders if turn % 2 == 0 else reversed(contenders):
                target = Path(directory, "target")
                cold, delta, idle = (_run(contender.command(host, tag, target)) for tag in ("v1", "v2", "v2"))
                _empty(target)
                passes.append(Pass(contender.name, cold, delta, idle))
                sys.stderr.write(f"pass {turn + 1}: {contender.name} {cold.seconds:.2f} s\n")
    return passes


@contextmanager
def _registry(directory: Path, mib: int) -> Iterator[str]:
    """Run a registry that has the kit as team/large:v1, and with another last layer as team/large:v2."""
    size = mib * 2**20 // _LAYERS
    builder = LayoutBuilder(directory / "layout")
    layers = [
        builder.blob(f"{MODELKIT}.{kind}.v1.tar", tar((f"model/{number}.bin", os.urandom(size))))
        for number, kind in enumerate(["model", *["modelpart"] * _LAYERS])
    ]
    for tag, chosen in (("v1", layers[:_LAYERS]), ("v2", [*layers[: _LAYERS - 1], layers[_LAYERS]])):
        entries = [
            {"path": f"model/{layers.index(layer)}.bin", "digest": layer["digest"]} for layer in chosen
        ]
        kitfile = {"package": {}, "model": {**entries[0], "parts": entries[1:]}}
        config = builder.blob(f"{MODELKIT}.config.v1+json", json.dumps(kitfile).encode())
        builder.artifact(f"team/large:{tag}", {"schemaVersion": 2, "config": config, "layers": chosen})
    with run_registry(directory / "registry") as registry:
        registry.push_layout(builder.directory)
        shutil.rmtree(builder.directory)
        yield registry.host


def _run(command: list[str]) -> Run:
    os.sync()
    begun = time.monotonic()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        peak = 0.0
        while True:
            # Not ru_maxrss: that begins with what its parent, this process, has.
            peak = max(peak, _peak_mib(process.pid))
            ended, status, used = os.wait4(process.pid, os.WNOHANG)
            if ended:
                break
            time.sleep(_LOOK_SECONDS)
        seconds = time.monotonic() - begun
        if status:
            errors.seek(0)
            raise SystemExit(f"{' '.join(command)}: {errors.read().decode(errors='replace')}")
    return Run(seconds, used.ru_utime + used.ru_stime, peak)


def _peak_mib(process: int) -> float:
    with suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return 0.0


def _empty(directory: Path) -> None:
    # Unpacked kits are read-only.
    subprocess.run(["chmod", "-R", "u+w", str(directory)], check=True)
    shutil.rmtree(directory)


def _table(passes: Sequence[Pass]) -> str:
    lines: list[Sequence[str]] = [_HEADER, ["---", *["---:"] * (len(_HEADER) - 1)]]
    for name in dict.fromkeys(turn.contender for turn in passes):
        cold, delta, cpu, peak, idle = _medians(passes, name)
        seconds = (f"{value:.2f}" for value in (cold, delta, delta / cold, cpu))
        lines.append([name, *seconds, f"{peak:.0f}", f"{peak - idle:.0f}"])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _medians(passes: Sequence[Pass], name: str) -> tuple[float, float, float, float, float]:
    """Return seconds (cold, delta), CPU seconds (cold), and the most MiB (cold, with nothing to do)."""
    turns = [turn for turn in passes if turn.contender == name]
    return (
        median(turn.cold.seconds for turn in turns),
        median(turn.delta.seconds for turn in turns),
        median(turn.cold.cpu_seconds for turn in turns),
        median(turn.cold.peak_mib for turn in turns),
        median(turn.idle.peak_mib for turn in turns),
    )


def _verdicts(passes: Sequence[Pass]) -> list[str]:
    cold, delta, _, peak, idle = _medians(passes, _KITSERVE)
    goals = [
        ("memory above idle under 150 MiB", peak - idle < 150, f"{peak - idle:.0f} MiB"),
        ("a delta of one layer in a tenth of the cold time", delta <= cold / 10, f"{delta / cold:.2f}"),
    ]
    if any(turn.contender == _SKOPEO for turn in passes):
        ratio = cold / _medians(passes, _SKOPEO)[0]
        goals.insert(0, ("no slower than skopeo, cold", ratio <= 1, f"{ratio:.2f} of its time"))
    return [f"- {'met' if reached else 'MISSED'}: {goal} ({measured})" for goal, reached, measured in goals]


if __name__ == "__main__":
    sys.exit(main())
