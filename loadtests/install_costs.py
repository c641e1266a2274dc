"""What an installation costs: packages, bytes to download, bytes on disk, and seconds of computing.

`make costs` measures that for the base and each extra, and prints the table that README has. All is
installed anew, without a cache, into environments in a directory for temporary files, which are removed. An
extra counts what it adds to the base. pip mostly computes: its seconds are those of an idle machine with a
fast network, whatever else runs on this one. PyTorch comes from where pip is configured to look, here a
build for CPUs; what it is on PyPI, with CUDA's libraries, is only looked up.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import requests

ROOT = Path(__file__).parents[1]
_CONSTRAINTS = ROOT / "constraints.txt"
_DEVELOPERS = ("all", "test", "lint", "bench")
_NOT_FOR_CPUS = ("vllm",)
_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Cost:
    """What one installation took; `seconds` and `installed` are None where it was only looked up."""

    name: str
    packages: int
    downloaded: int
    installed: int | None = None
    seconds: float | None = None

    def row(self) -> str:
        """Return the row of the table."""
        disk = "" if self.installed is None else _size(self.installed)
        seconds = "" if self.seconds is None else f"{self.seconds:.0f} s"
        return f"| {self.name} | {self.packages} | {_size(self.downloaded)} | {disk} | {seconds} |"


def main() -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("extras", nargs="*", help="the extras to measure; all, where none is named")
    extras = parser.parse_args().extras or _extras()
    with tempfile.TemporaryDirectory(prefix="kitserve-costs-") as directory:
        print("| | packages | download | on disk | computing |\n| --- | --- | --- | --- | --- |", flush=True)
        for cost in _costs(Path(directory), extras):
            print(cost.row(), flush=True)
    return 0


def _costs(directory: Path, extras: list[str]) -> Iterator[Cost]:
    wheel = _wheel(directory)
    base = _environment(directory / "base")
    yield _installed("Kitserve, with PyTorch for CPUs", base, str(wheel))
    yield _cuda()
    for extra in extras:
        environment = _environment(directory / extra, beside=base)
        yield _installed(f"`{extra}`", environment, f"kitserve[{extra}] @ {wheel.as_uri()}")
        shutil.rmtree(environment)


def _extras() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = project["optional-dependencies"]
    return [name for name in names if name not in (*_DEVELOPERS, *_NOT_FOR_CPUS)]


def _wheel(directory: Path) -> Path:
    """Build Kitserve's wheel from a copy, as a build leaves files where it is done."""
    source = directory / "source"
    for name in ("gateway", "runtimes"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    _run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "-w",
        str(directory / "wheel"),
        str(source),
    )
    (wheel,) = (directory / "wheel").iterdir()
    return wheel


def _environment(path: Path, beside: Path | None = None) -> Path:
    """Make an environment; what is in the other one is there for pip, and counts as installed."""
    _run(sys.executable, "-m", "venv", "--without-pip", str(path))
    if beside is not None:
        (_packages(path) / "beside.pth").write_text(f"{_packages(beside)}\n")
    return path


def _installed(name: str, environment: Path, requirement: str) -> Cost:
    report = environment / "report.json"
    before = _bytes_in(environment)
    started = _computed()
    _pip(environment, requirement, "--report", str(report), "--no-cache-dir")
    seconds = _computed() - started
    urls = _urls(report)
    report.unlink()
    return Cost(name, len(urls), sum(map(_download_size, urls)), _bytes_in(environment) - before, seconds)


def _computed() -> float:
    """Return how many seconds the programs that this one started, and that have ended, have computed."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _cuda() -> Cost:
    """Look up what the image for GPUs has of PyTorch and CUDA that the one for CPUs has not."""
    for_cpus, for_gpus = (_pins(ROOT / "configs" / "image" / f"{name}.txt") for name in ("cpu", "cuda"))
    others = [(name, version) for name, version in for_gpus.items() if for_cpus.get(name) != version]
    return Cost("PyTorch with CUDA, instead", len(others), sum(_wheel_size(*other) for other in others))


def _pins(lock: Path) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", lock.read_text(), re.M))


def _wheel_size(name: str, version: str) -> int:
    """Return how large the wheel of a release is that this Python would get on Linux for x86-64."""
    headers = {"Accept": "application/vnd.pypi.simple.v1+json"}
    answer = requests.get(f"https://pypi.org/simple/{name}/", headers=headers, timeout=_SECONDS)
    answer.raise_for_status()
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    tags = rf"(?:{python}-{python}|cp3[0-9]+-abi3|(?:py2\.)?py3-none)-\S*(?:x86_64|any)"
    wheel = re.compile(
        rf"{name.replace('-', '_')}-{re.escape(version)}(?:-[0-9]+)?-{tags}\.whl", re.IGNORECASE
    )
    return max(int(file["size"]) for file in answer.json()["files"] if wheel.fullmatch(file["filename"]))


def _pip(environment: Path, requirement: str, *options: str) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(environment / "bin" / "python"),
        "install",
        "--quiet",
    ]
    _run(*command, "-c", str(_CONSTRAINTS), *options, requirement)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


def _urls(report: Path) -> list[str]:
    """Return where pip's report says that each package comes from, without those that were there."""
    return [entry["download_info"]["url"] for entry in json.loads(report.read_text())["install"]]


def _download_size(url: str) -> int:
    if url.startswith("file:"):
        path = Path(unquote(urlsplit(url).path))
        return path.stat().st_size
    answer = requests.head(url, timeout=_SECONDS, allow_redirects=True)
    answer.raise_for_status()
    return int(answer.headers["Content-Length"])


def _packages(environment: Path) -> Path:
    (path,) = (environment / "lib").glob("python*/site-packages")
    return path


def _bytes_in(directory: Path) -> int:
    """Return what files take on disk, as du(1) counts it."""
    entries = [path.lstat() for path in directory.rglob("*")]
    return sum(entry.st_blocks * 512 for entry in entries)


def _size(number: int) -> str:
    megabytes = number / 1e6
    text = f"{megabytes / 1000:.1f} GB" if megabytes >= 1000 else f"{megabytes:.0f} MB"
    return re.sub(r"^0 MB$", "under 1 MB", text)


if __name__ == "__main__":
    sys.exit(main())
