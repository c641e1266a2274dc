"""What a worker gives up before it loads a kit.

Its process is one of Ray's, with threads that were there before: system calls are refused to all of these,
while files and capabilities are taken from the thread that asks, and from all that it starts afterwards. So
the thread of the event loop asks, and everything that touches the kit starts from there: the threads that
load, compute and answer calls.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from gateway.contract import WorkerSpec
from gateway.files import lock_directory, remove_leftovers
from gateway.oci.options import SourceOptions
from gateway.worker.admission import MEMORY_DIRECTORY
from gateway.worker.gpu_admission import GPU_DIRECTORY
from gateway.worker.hang import HUNG_DIRECTORY
from runtimes.containment import containment, environment, places
from runtimes.containment.containment import Rules
from runtimes.containment.landlock import Files
from runtimes.containment.seccomp import Sockets
from runtimes.engines.process import is_passed

ENVIRONMENT = "environment"
"""Stands beside the words of `runtimes.containment`: the variables are those of a list."""
ALL = (*containment.ALL, ENVIRONMENT)
"""All that a worker gives up."""

_DIRECTORY = "kitserve-worker-"
_WRITTEN = (MEMORY_DIRECTORY, GPU_DIRECTORY, HUNG_DIRECTORY)  # below the home
_MIN_AGE = 30.0  # seconds: between making and locking one passes less
# What the libraries in a worker read, besides what its children get.
_PREFIXES = ("RAY_", "SERVE_", "OMP_", "MKL_", "OPENBLAS_", "KMP_", "ORT_", "TF_", "PYTHON", "MALLOC_")
_VARIABLES = ("USER", "LOGNAME", "SHELL", "PWD", "KERAS_BACKEND", "TOKENIZERS_PARALLELISM")

# Ray has read it by then, and a kit that had it could call Ray as Kitserve does.
_SECRETS = ("RAY_AUTH_TOKEN",)

log = logging.getLogger(__name__)


class WorkerContainment:
    """The containment of one worker; `on` is what is on of `ALL`, and `off` what is not, once that is so."""

    def __init__(self, home: Path, kit: Path, compiled: Path | None = None) -> None:
        """Make the worker's directory for temporary files.

        Args:
            home: the node's directory, of which the worker keeps the logs.
            kit: the directory of the unpacked kit.
            compiled: where its engine keeps what it compiles; None: nowhere.
        """
        self._home = home
        self._kit = kit
        self._compiled = () if compiled is None else (compiled,)
        self.on: tuple[str, ...] = ()
        self.off: tuple[str, ...] = ALL
        for name in _WRITTEN:
            (home / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        parent = Path(tempfile.gettempdir())
        remove_leftovers(parent, _DIRECTORY, _MIN_AGE)
        self._directory = Path(tempfile.mkdtemp(prefix=_DIRECTORY, dir=parent))
        self._lock = lock_directory(self._directory)

    def contain(self, *, has_child: bool, tries_first: bool = False) -> None:
        """Contain the process, and this thread with all that it starts from now on.

        Args:
            has_child: whether a child of this process is to be ended by it.
            tries_first: whether Python is still to be started, to load the file there first; then `seal`
                refuses that later.
        """
        on = containment.contain(
            Rules(
                self._files(),
                Sockets.STREAMS,
                may_start_programs=tries_first,
                may_start_processes=tries_first,
                may_signal=has_child or tries_first,
            )
        )
        environment.scrub(_may_stay)
        environment.move_home(self._directory)
        self.on = (*on, ENVIRONMENT)
        self.off = tuple(name for name in ALL if name not in self.on)
        if failed := frozenset(containment.lacking(on)) - frozenset(containment.lacking()):
            log.error("worker.not_contained", extra={"refused": ", ".join(sorted(failed))})

    def seal(self) -> None:
        """Refuse to start programs and processes from now on."""
        containment.contain(Rules(None, Sockets.STREAMS, may_signal=True))

    def close(self) -> None:
        """Remove what is in the directory for temporary files; see `remove_directories`."""
        shutil.rmtree(self._directory, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)

    def _files(self) -> Files:
        # Without semaphores, which are files there, joblib computes in one thread.
        shared_memory = Path("/dev/shm")  # noqa: S108 - no temporary file
        logs = (self._home / "logs", *_logs())
        return Files(
            # What is told of other processes' memory and variables, the kernel keeps from who is contained.
            readable=(*places.readable(), Path("/proc"), self._kit),
            writable=(self._directory, shared_memory),
            shared=(*(self._home / name for name in _WRITTEN), *self._compiled, *logs),
            devices=places.devices(),
            programs=places.python(),
        )


def remove_directories() -> None:
    """Remove the directories of workers that have ended: who is contained may empty its own, and no more."""
    remove_leftovers(Path(tempfile.gettempdir()), _DIRECTORY, 0.0)


def use_contained_threads() -> None:
    """Have the loop's `to_thread` start its threads from this one, and not use those of before."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(thread_name_prefix="contained"))


def without_credentials(spec: WorkerSpec) -> WorkerSpec:
    """Return what a worker needs to know once its kit is there: nothing of how registries are asked."""
    return replace(spec, sources=SourceOptions())


def without_tls_key(spec: WorkerSpec) -> WorkerSpec:
    """Return what a worker needs to know once its server has the key."""
    tls = spec.node.tls
    return replace(spec, node=replace(spec.node, tls=None if tls is None else tls.without_key()))


def _may_stay(name: str) -> bool:
    if name in _SECRETS:
        return False
    return is_passed(name) or name.startswith(_PREFIXES) or name in _VARIABLES


def _logs() -> set[Path]:
    """Return the directories of the files that are logged to, which are made anew where they are full."""
    loggers = [logging.getLogger(), *map(logging.getLogger, tuple(logging.root.manager.loggerDict))]
    handlers = [handler for logger in loggers for handler in logger.handlers]
    return {Path(file.baseFilename).parent for file in handlers if isinstance(file, logging.FileHandler)}
