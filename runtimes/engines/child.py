"""What an engine does in its own process, before and after it serves: the other side of `process`."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from runtimes.containment import environment, places
from runtimes.containment.containment import Rules, contain, lacking
from runtimes.containment.landlock import Files
from runtimes.containment.seccomp import Sockets

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_OOM_SCORE = "1000"


def begin() -> dict[str, Any]:
    """Return the options that the parent sent, once this process is sure to die with it.

    The kernel kills this process before its parent where memory is short. A crash writes no core file,
    which would be as large as the model.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    line = sys.stdin.buffer.readline()
    options: dict[str, Any] = json.loads(line) if line else {}
    if options.get("parent") != os.getppid():
        # It died before the kernel was asked to tell of that.
        raise SystemExit(1)
    return options


def enclose(directory: Path, readable: Iterable[Path], sockets: Sockets, *, is_python: bool = False) -> None:
    """Leave this process its model's files and its own directory; to be called before it reads the model.

    Args:
        directory: its own, which it may write.
        readable: the files and directories of the kit that it may read.
        sockets: which new sockets it may make.
        is_python: whether it may start Python once more, as `multiprocessing` does, contained as it is.
    """
    files = Files(
        readable=(*places.readable(), places.own_process(), *readable),
        writable=(directory,),
        devices=places.devices(),
        programs=places.python() if is_python else (),
    )
    rules = Rules(files, sockets, may_start_programs=is_python, may_start_processes=is_python)
    if not is_python:
        environment.move_home(directory)
    on = contain(rules)
    if failed := frozenset(lacking(on)) - frozenset(lacking()):
        sys.stderr.write(f"warning: the kernel refused to contain it: {', '.join(sorted(failed))}\n")


def wait_for_parent() -> None:
    """Return when the parent has closed this process's standard input, as it does when it ends."""
    while sys.stdin.buffer.read(4_096):
        pass
