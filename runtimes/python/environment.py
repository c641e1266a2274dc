"""The environment that a kit's Python runs in: a virtual one with its requirements, made once for each set.

An environment's name is a hash over all that it depends on. One without its mark of completion is of no use
and is made again; who makes one, or waits for that, holds its lock, and so does the installer. Only wheels
are installed, so nothing of a package runs while it is. The packages of Kitserve's own environment come last
in its path: a kit need not bring numpy.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import site
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from runtimes.engines.log import EngineLog
from runtimes.errors import LoadError
from runtimes.python.requirements import FILE, Requirements, Sources

SECONDS = 900.0
"""How long an environment may take to be made, or to be waited for."""

_FORM = 1
_COMPLETE = ".complete"
_LINES = "kit-requirements.txt"
_PATHS = "_kitserve.pth"
_PAUSE = 0.2
_SHOWN = 160
# What an installer that may ask an index needs to know of it; it runs nothing of the kit.
_INDEX_PREFIXES = ("PIP_", "UV_", "LC_")
_INDEX_VARIABLES = ("HOME", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "XDG_CONFIG_HOME", "NETRC")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")

Note = Callable[[str], None]


def interpreter_for(
    requirements: Requirements | None,
    sources: Sources,
    directory: Path,
    note: Note = lambda _: None,
    seconds: float = SECONDS,
) -> Path:
    """Return the Python that has the requirements, and make its environment where it is not there yet.

    Args:
        requirements: of the kit; None: Kitserve's own Python does.
        sources: where packages may come from.
        directory: where environments are kept.
        note: told how far it is.
        seconds: how long that may take.

    Raises:
        LoadError: they may not be installed, or cannot be; the message has the installer's last lines.
    """
    if requirements is None:
        return Path(sys.executable)
    if sources is Sources.NEVER:
        raise LoadError(
            f"{requirements.file} asks for packages, and the policy allows none (`requirements: never`): "
            "leave the file out of the kit, or set `trust: {requirements: kit}`"
        )
    try:
        return _environment(requirements, sources, directory, note, time.monotonic() + seconds)
    except OSError as error:
        raise LoadError(
            f"the environment of the kit's Python cannot be made in {directory}: {error}"
        ) from error


def _environment(
    requirements: Requirements, sources: Sources, directory: Path, note: Note, deadline: float
) -> Path:
    """Return the Python of an environment, which is made where it is not there yet."""
    home = directory / _key(requirements, sources)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(directory / f"{home.name}.lock", deadline, note) as lock:
        if not (home / _COMPLETE).exists():
            shutil.rmtree(home, ignore_errors=True)
            note("making the environment of its Python")
            _make(home, requirements, sources, lock, deadline, note)
            (home / _COMPLETE).touch()
        # When it was used last, for whoever makes room.
        os.utime(home / _COMPLETE)
    return _python(home)


def _key(requirements: Requirements, sources: Sources) -> str:
    """Return a hash over what an environment is made of."""
    wheels = []
    for wheel in requirements.wheels:
        with wheel.open("rb") as file:
            wheels.append([wheel.name, hashlib.file_digest(file, "sha256").hexdigest()])
    own = sorted(path.name for place in _own_packages() for path in Path(place).glob("*.dist-info"))
    facts = [_FORM, sys.version, sys.executable, sources, requirements.lines, wheels, own]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _make(
    home: Path, requirements: Requirements, sources: Sources, lock: int, deadline: float, note: Note
) -> None:
    """Make the environment. Raises LoadError."""
    needs_own_pip = importlib.util.find_spec("pip") is None
    uv = shutil.which("uv") if sources is Sources.INDEX else None
    create = [sys.executable, "-I", "-m", "venv"]
    if uv or not needs_own_pip:
        create.append("--without-pip")
    _run([*create, str(home)], sources, lock, deadline, note)
    file = home / _LINES
    file.write_text("".join(f"{line}\n" for line in requirements.lines))
    # With Kitserve's packages in its path, pip sees that they are there, and installs only what is missing.
    paths = (
        home / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages" / _PATHS
    )
    if sources is Sources.KIT:
        _write_own_packages(paths)
    _run(_install(home, file, requirements, sources, uv, needs_own_pip), sources, lock, deadline, note)
    _write_own_packages(paths)


def _install(
    home: Path, file: Path, requirements: Requirements, sources: Sources, uv: str | None, needs_own_pip: bool
) -> list[str]:
    """Return the command that installs the requirements."""
    python = str(_python(home))
    if uv:
        command = [uv, "pip", "install", "--python", python, "--no-build", "--no-progress"]
    else:
        pip = [python, "-I", "-m", "pip"] if needs_own_pip else [sys.executable, "-I", "-m", "pip"]
        target = [] if needs_own_pip else ["--python", python]
        command = [*pip, *target, "install", "--only-binary=:all:", "--no-input", "--no-compile"]
        command += ["--disable-pip-version-check", "--progress-bar=off", "--no-cache-dir"]
    if requirements.wheel_directory is not None:
        command += ["--find-links", str(requirements.wheel_directory)]
    if sources is Sources.KIT:
        # What Kitserve has is there already: a newer wheel of the kit is still taken.
        command += ["--no-index", "--upgrade"]
    return [*command, "-r", str(file)]


def _run(command: Sequence[str], sources: Sources, lock: int, deadline: float, note: Note) -> None:
    """Run a command to its end; what it writes is its progress. Raises LoadError."""
    output = EngineLog()
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_variables(sources),
            start_new_session=True,
            # The lock is held for as long as the installer writes, also where this worker dies.
            pass_fds=(lock,),
        )
    except OSError as error:
        raise LoadError(f"the environment of the kit's Python cannot be made: {error}") from error
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    with process.stdout as pipe:
        try:
            while process.poll() is None and time.monotonic() < deadline:
                if line := _read(pipe, output):
                    note(line)
                time.sleep(_PAUSE)
        finally:
            is_late = process.poll() is None
            if is_late:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            _read(pipe, output)
    if is_late:
        raise LoadError(f"the environment of the kit's Python was not made in time{output.ending()}")
    if process.returncode:
        raise LoadError(
            f"the packages in {FILE} cannot be installed{output.ending()}; bring their wheels in the kit's "
            f"directory `wheels`, or let an index be asked with `trust: {{requirements: index}}`"
            if sources is Sources.KIT
            else f"the packages in {FILE} cannot be installed{output.ending()}"
        )


def _read(pipe: IO[bytes], output: EngineLog) -> str:
    """Read what was written by now; return its last line."""
    last = b""
    while chunk := pipe.read(65_536):
        output.write(chunk)
        last = chunk.strip().rpartition(b"\n")[2]
    text = last.decode(errors="replace").strip()
    return text[:_SHOWN] if text.isprintable() else ""


def _variables(sources: Sources) -> dict[str, str]:
    """Return the variables of an installer: where an index may be asked, with those that say how."""
    names = {"PATH", "LANG", "TMPDIR", "LD_LIBRARY_PATH"}
    if sources is Sources.INDEX:
        names |= {*_INDEX_VARIABLES, *_PROXIES, *map(str.lower, _PROXIES)}
    return {
        name: value
        for name, value in os.environ.items()
        if name in names or (sources is Sources.INDEX and name.startswith(_INDEX_PREFIXES))
    }


def _write_own_packages(file: Path) -> None:
    file.write_text("".join(f"{place}\n" for place in _own_packages()))


def _own_packages() -> list[str]:
    """Return the directories with the packages of Kitserve's own environment."""
    return [place for place in site.getsitepackages() if Path(place).is_dir()]


def _python(home: Path) -> Path:
    return home / "bin" / "python"


@contextmanager
def _locked(path: Path, deadline: float, note: Note) -> Iterator[int]:
    """Hold a lock; the file that is locked is given. Raises LoadError where another holds it too long."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise LoadError(
                        "another worker has not made the environment of its Python in time"
                    ) from None
                note("another worker makes the environment of its Python")
                time.sleep(_PAUSE)
        yield lock
    finally:
        os.close(lock)
