"""Commands of `kitserve`, each in a process of its own that need not import them: that takes a second."""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

_FORKS = multiprocessing.get_context("forkserver")
_SECONDS = 120
_IMPORTED = [
    f"gateway.cli.{name}"
    for name in ("main", "status", "apply", "plan", "rollout", "kits", "restart", "validate")
]


def run_warm(arguments: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run `kitserve ARGUMENTS` in a fork of a process that has imported all commands.

    Raises:
        subprocess.TimeoutExpired: when it does not end.
    """
    _start_server()
    with tempfile.TemporaryDirectory() as directory:
        output, errors = Path(directory) / "output", Path(directory) / "errors"
        process = _FORKS.Process(target=_run, args=(list(arguments), dict(environment), output, errors))
        process.start()
        process.join(_SECONDS)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(["kitserve", *arguments], _SECONDS, output.read_text())
        code, texts = process.exitcode, (output.read_text(), errors.read_text())
    process.close()
    return subprocess.CompletedProcess(["kitserve", *arguments], code, *texts)


def _start_server() -> None:
    """Start the process that is forked, if it does not run yet."""
    # Rich decides on colours as it is imported: nothing that a command writes here goes to a terminal.
    terminal = os.environ.get("TERM")
    os.environ["TERM"] = "dumb"
    try:
        _FORKS.set_forkserver_preload([*_IMPORTED, __name__])
        multiprocessing.forkserver.ensure_running()
    finally:
        if terminal is None:
            del os.environ["TERM"]
        else:
            os.environ["TERM"] = terminal


def _run(arguments: list[str], environment: dict[str, str], output: Path, errors: Path) -> None:
    from gateway.cli.__main__ import main

    os.environ.clear()
    os.environ.update(environment)
    for number, file in ((1, output), (2, errors)):
        opened = os.open(file, os.O_WRONLY | os.O_CREAT)
        os.dup2(opened, number)
        os.close(opened)
    sys.argv = ["kitserve", *arguments]
    main()
