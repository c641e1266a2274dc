"""The wheel has all that Kitserve reads; installed away from any checkout, `kitserve run` serves from it.

The libraries are those of the tests' own environment, so that nothing is downloaded.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from gateway.cli.processes import descendants
from tests.support.ports import free_port
from tests.support.registry import Registry

ROOT = Path(__file__).parents[2]
PACKAGES = ("gateway", "runtimes")
READY_SECONDS = 90


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of what a clone has: a build leaves files where it is done."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--quiet", "--wheel-dir", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(source)], check=True)
    (file,) = target.iterdir()
    return file


@pytest.fixture(scope="module")
def command(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`kitserve` of an environment that has the wheel, and beside it the libraries of this one."""
    directory = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(directory)], check=True)
    python = directory / "bin" / "python"
    options = ["--no-deps", "--no-index", "--quiet"]
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), "install", *options, str(wheel)], check=True
    )
    own = Path(sysconfig.get_path("purelib", vars={"base": str(directory), "platbase": str(directory)}))
    # Files like this one are not read in directories that they name: no editable Kitserve comes with them.
    (own / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    where = subprocess.run(
        [python, "-I", "-c", "import gateway; print(gateway.__file__)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert where.stdout.strip() == str(own / "gateway" / "__init__.py"), "and not a checkout's"
    return directory / "bin" / "kitserve"


def test_it_has_every_file_of_the_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    files = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }
    assert files - packed == set()
    assert {name.partition("/")[0] for name in packed - files} == {
        re.sub(r"-py3-.*", "", wheel.name) + ".dist-info"
    }


class Run:
    """One `kitserve run` of an installed Kitserve, in a directory that has nothing of a checkout."""

    def __init__(self, command: Path, directory: Path, *arguments: str) -> None:
        self.directory = directory
        self._log = directory / f"run-{free_port()}.log"
        variables = {"HOME": str(directory), "PATH": os.defpath, "KITSERVE_HOME": str(directory / "home")}
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [command, "run", *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=directory,
                env=variables,
                start_new_session=True,
            )

    @property
    def text(self) -> str:
        """What it has printed so far."""
        return self._log.read_text()

    def wait_until_ready(self) -> str:
        """Wait until it has said how it is called; return that command."""
        deadline = time.monotonic() + READY_SECONDS
        while not (said := re.search(r"^  stop +Ctrl-C$", self.text, re.M)):
            assert self.process.poll() is None, self.text
            assert time.monotonic() < deadline, self.text
            time.sleep(0.1)
        call = re.search(r"Call it:\n\n(.*?)\n\n", self.text[: said.end()], re.DOTALL)
        assert call is not None, self.text
        return call[1]

    def address_of(self, name: str) -> str:
        """Return an address that it has said."""
        match = re.search(rf"^  {name} +(\S+)$", self.text, re.M)
        assert match is not None, self.text
        return match[1]


@contextmanager
def run(command: Path, directory: Path, *arguments: str) -> Iterator[Run]:
    started = Run(command, directory, *arguments)
    try:
        yield started
    finally:
        if started.process.poll() is None:
            started.process.send_signal(signal.SIGINT)
            started.process.wait(60)


def test_one_command_pulls_serves_and_says_how_it_is_called(
    command: Path, tmp_path: Path, registry: Registry
) -> None:
    with run(
        command, tmp_path, f"{registry.host}/samples/iris:v1", "--plain-http", "--name", "flowers"
    ) as first:
        call = first.wait_until_ready()
        assert "2560 bytes pulled, all verified" in first.text
        done = subprocess.run(["sh", "-c", call], capture_output=True, text=True, check=False)
        assert '"model_name":"flowers"' in done.stdout, call + done.stdout + done.stderr
        assert '"label":"setosa"' in done.stdout, "it sends what the model takes"
        docs = first.address_of("docs")
        assert "flowers" in requests.get(docs, timeout=10).text
        assert "kitserve_" in requests.get(first.address_of("metrics"), timeout=10).text
        port = str(urlsplit(docs).port)
        check = [str(command.with_name("python")), "-m", "gateway.cli.health"]
        run_home = {"KITSERVE_HOME": str(tmp_path / "home" / "runs" / port)}
        subprocess.run(check, env=run_home, cwd=tmp_path, check=True)
        with run(command, tmp_path, f"{registry.host}/samples/iris:v1", "--port", port) as second:
            assert second.process.wait(30) == 1
            assert second.text == (
                f"kitserve: port {port} of 127.0.0.1 is taken; choose another with --port, or leave it out "
                "for the next free one\n"
            )
        processes = descendants(first.process.pid)
        first.process.send_signal(signal.SIGINT)
        assert first.process.wait(30) == 0, first.text
        assert first.text.endswith("stopped\n")
        assert not [process for process in processes if Path(f"/proc/{process}").exists()]
