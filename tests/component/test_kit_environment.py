"""The environment of a kit's Python has the wheels that the kit brings, is made once, and never half."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import runtimes
from runtimes.base import Resources
from runtimes.errors import LoadError
from runtimes.python import environment
from runtimes.python.environment import interpreter_for
from runtimes.python.model import PythonModel
from runtimes.python.requirements import Requirements, Sources, find_requirements
from runtimes.python.runtime import PythonOptions, PythonRuntime
from tests.support.wheels import wheel


def put_wheel(directory: Path, name: str, version: str, requires: tuple[str, ...] = ()) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    file, content = wheel(name, version, requires)
    (directory / file).write_bytes(content)
    return directory / file


@pytest.fixture
def requirements(tmp_path: Path) -> Callable[[str], Requirements]:
    """Give the requirements of a kit whose file has this text."""

    def write(text: str) -> Requirements:
        root = tmp_path / "kit"
        root.mkdir(exist_ok=True)
        (root / "requirements.txt").write_text(text)
        found = find_requirements(root / "kitserve.py", root)
        assert found is not None
        return found

    return write


def version_in(python: Path, module: str) -> str:
    program = f"import {module}; print({module}.VERSION)"
    return subprocess.run(
        [python, "-I", "-c", program], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_wheels_of_the_kit_are_installed_once_beside_what_kitserve_has(
    requirements: Callable[[str], Requirements], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_wheel(tmp_path / "kit" / "wheels", "tiny_one", "1.0", requires=("tiny_two>=2", "numpy"))
    put_wheel(tmp_path / "kit" / "wheels", "tiny_two", "2.1")
    wanted = requirements("tiny_one==1.0\nnumpy\n")
    notes: list[str] = []
    python = interpreter_for(wanted, Sources.KIT, tmp_path / "environments", notes.append)
    assert (version_in(python, "tiny_one"), version_in(python, "tiny_two")) == ("1.0", "2.1")
    assert notes[0] == "making the environment of its Python"
    subprocess.run([python, "-I", "-c", "import numpy"], check=True)
    monkeypatch.setattr(environment, "_make", None)
    assert interpreter_for(wanted, Sources.KIT, tmp_path / "environments") == python


def test_a_class_runs_in_its_environment(requirements: Callable[[str], Requirements], tmp_path: Path) -> None:
    put_wheel(tmp_path / "kit" / "wheels", "tiny_one", "1.5")
    requirements("tiny_one")
    entry = tmp_path / "kit" / "kitserve.py"
    entry.write_text(
        "import tiny_one\nclass Model:\n"
        "    def predict(self, x: float) -> str:\n        return tiny_one.VERSION\n"
    )
    with pytest.raises(LoadError, match="there is no directory for the environments"):
        PythonRuntime().load(entry, Resources())
    options = PythonOptions(environments=tmp_path / "environments")
    model = PythonRuntime().start(entry, Resources(), options)
    assert isinstance(model, PythonModel)
    assert model.infer({"x": np.array([1.0])})["output"].tolist() == [b"1.5"]
    model.close()


def test_the_kit_gets_no_library_that_lies_beside_kitserve(tmp_path: Path) -> None:
    """A wheel of Kitserve is installed beside its libraries, of which the kit may have other versions."""
    installed = tmp_path / "site-packages"
    shutil.copytree(Path(runtimes.__file__).parent, installed / "runtimes")
    (installed / "numpy.py").write_text("raise SystemExit('the numpy of Kitserve was imported')")
    launcher = installed / "runtimes" / "python" / "launcher.py"
    done = subprocess.run(
        [sys.executable, "-I", launcher],
        input=f'{{"parent": {os.getpid()}}}\n',
        capture_output=True,
        text=True,
        check=False,
    )
    assert "the numpy of Kitserve" not in done.stderr
    assert "KeyError" in done.stderr, "it got as far as its options, which are missing"


def test_another_wheel_of_the_same_name_is_another_environment(
    requirements: Callable[[str], Requirements], tmp_path: Path
) -> None:
    file = put_wheel(tmp_path / "kit" / "wheels", "tiny_one", "1.0")
    first = interpreter_for(requirements("tiny_one"), Sources.KIT, tmp_path / "environments")
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("tiny_more.py", "VERSION = 'more'\n")
    second = interpreter_for(requirements("tiny_one"), Sources.KIT, tmp_path / "environments")
    assert first != second
    assert version_in(second, "tiny_one") == "1.0"


def test_what_no_wheel_has_is_named_and_nothing_is_left(
    requirements: Callable[[str], Requirements], tmp_path: Path
) -> None:
    wanted = requirements("tiny_none==3.0\n")
    for _ in range(2):
        with pytest.raises(LoadError) as caught:
            interpreter_for(wanted, Sources.KIT, tmp_path / "environments")
        assert "the packages in requirements.txt cannot be installed: ERROR: " in str(caught.value)
        assert "tiny_none==3.0" in str(caught.value)
        assert "trust: {requirements: index}" in str(caught.value)
    assert not list((tmp_path / "environments").glob("*/.complete"))


def test_a_half_made_environment_is_made_again(
    requirements: Callable[[str], Requirements], tmp_path: Path
) -> None:
    put_wheel(tmp_path / "kit" / "wheels", "tiny_one", "1.0")
    wanted = requirements("tiny_one")
    python = interpreter_for(wanted, Sources.KIT, tmp_path / "environments")
    home = python.parents[1]
    (home / ".complete").unlink()
    next(home.rglob("tiny_one.py")).write_text("half")
    assert interpreter_for(wanted, Sources.KIT, tmp_path / "environments") == python
    assert version_in(python, "tiny_one") == "1.0"


def test_never_means_never(requirements: Callable[[str], Requirements], tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"asks for packages, and the policy allows none"):
        interpreter_for(requirements("numpy"), Sources.NEVER, tmp_path / "environments")
    assert interpreter_for(None, Sources.NEVER, tmp_path) == Path(sys.executable)


def test_two_workers_make_one_environment(
    requirements: Callable[[str], Requirements], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_wheel(tmp_path / "kit" / "wheels", "tiny_one", "1.0")
    wanted = requirements("tiny_one")
    made: list[Path] = []
    make = environment._make

    def counted(home: Path, *arguments: object) -> None:
        made.append(home)
        make(home, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(environment, "_make", counted)
    notes: list[str] = []
    pythons: list[Path] = []

    def build() -> None:
        pythons.append(interpreter_for(wanted, Sources.KIT, tmp_path / "environments", notes.append))

    threads = [threading.Thread(target=build) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert len(set(pythons)) == 1
    assert len(pythons) == 3
    assert "another worker makes the environment of its Python" in notes


def test_an_installer_that_takes_too_long_is_ended(
    requirements: Callable[[str], Requirements], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "_install", lambda *_: ["sh", "-c", "echo fetching; sleep 60 & wait"])
    began = time.monotonic()
    with pytest.raises(LoadError, match="was not made in time: fetching"):
        interpreter_for(requirements("tiny_one"), Sources.KIT, tmp_path / "environments", seconds=4.0)
    assert time.monotonic() - began < 15


def test_the_installer_gets_an_index_only_where_the_policy_allows_it(
    requirements: Callable[[str], Requirements], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.example")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example")
    monkeypatch.setenv("REGISTRY_PASSWORD", "secret")
    put_wheel(tmp_path / "kit" / "wheels", "tiny_one", "1.0")
    wanted = requirements("tiny_one")
    home = tmp_path / "home"
    command = environment._install(home, home / "r", wanted, Sources.KIT, None, needs_own_pip=False)
    assert {"--no-index", "--only-binary=:all:", str(tmp_path / "kit" / "wheels")} <= set(command)
    assert {"PIP_INDEX_URL", "HTTPS_PROXY", "REGISTRY_PASSWORD"}.isdisjoint(
        environment._variables(Sources.KIT)
    )
    command = environment._install(home, home / "r", wanted, Sources.INDEX, None, needs_own_pip=False)
    assert "--no-index" not in command
    assert "--only-binary=:all:" in command
    variables = environment._variables(Sources.INDEX)
    assert variables["PIP_INDEX_URL"] == "https://index.example"
    assert variables["HTTPS_PROXY"] == "http://proxy.example"
    assert "REGISTRY_PASSWORD" not in variables
    command = environment._install(home, home / "r", wanted, Sources.INDEX, "/bin/uv", needs_own_pip=False)
    assert command[:3] == ["/bin/uv", "pip", "install"]
    assert "--no-build" in command


def test_a_disk_that_is_full_is_told(
    requirements: Callable[[str], Requirements], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(environment, "_make", full)
    with pytest.raises(LoadError, match=f"cannot be made in {tmp_path}.*No space left"):
        interpreter_for(requirements("greeting"), Sources.KIT, tmp_path / "environments")
