"""The admission of models to a node's memory: one that does not fit is refused before its engine starts.

Each worker that loads has a reservation, a file with the bytes that its model needs, locked while it loads.
Once it is loaded, its memory is no longer free, and the reservation is removed. Of workers that begin at the
same time, the later wait for the earlier ones where there may not be room for all.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.files import locked_in_shared, read_held
from gateway.kits.language import LanguageModel
from gateway.kits.library import UnpackedKit
from gateway.kits.memory import check_total, need_of, no_memory
from gateway.metrics.machine import MachineMemory, is_mapped, usable_memory
from runtimes.base import Resources
from runtimes.select import Choice

MEMORY_DIRECTORY = "memory"
"""Where in a home the reservations are."""
_PAUSE = 0.25
_LOCK = "lock"
_MAX_DIGITS = 20


class Admission:
    """The reservations of a node, in `directory`; `machine` tells its memory.

    `waits` is called, more than once, while a model waits for others to be loaded.
    """

    def __init__(
        self,
        directory: Path,
        machine: Callable[[], MachineMemory] = usable_memory,
        waits: Callable[[], None] = lambda: None,
    ) -> None:
        self._directory = directory
        self._machine = machine
        self._waits = waits

    @contextmanager
    def admitted(
        self, kit: UnpackedKit, choice: Choice, language: LanguageModel, resources: Resources
    ) -> Iterator[None]:
        """Reserve the memory that a model needs for as long as it loads.

        Models that compute on GPUs, and others whose need is not known, are always admitted. Weights that
        another engine has mapped from the same file are not needed again.

        Raises:
            NoMemory: where the machine has not so much free.
            UnusableModel: where it never has.
        """
        need = need_of(kit, choice, language)
        if need is None or resources.gpus > 0:
            yield
            return
        check_total(kit, need, self._machine())
        is_shared = choice.path.is_file() and is_mapped(choice.path)
        needed = need.memory.total - (need.memory.weights if is_shared else 0)
        self._directory.mkdir(parents=True, exist_ok=True)
        while True:
            with locked_in_shared(self._directory / _LOCK):
                machine, reserved = self._machine(), self._reserved()
                if needed <= machine.free - reserved:
                    file, path = self._reserve(needed)
                    break
            if not reserved:
                raise no_memory(kit, need, machine)
            self._waits()
            time.sleep(_PAUSE)
        try:
            yield
        finally:
            Path(path).unlink(missing_ok=True)
            os.close(file)

    def _reserve(self, needed: int) -> tuple[int, str]:
        """Return the open file of a new reservation, which is locked until it is closed, and its path."""
        file, path = tempfile.mkstemp(dir=self._directory)
        fcntl.flock(file, fcntl.LOCK_EX)
        os.write(file, str(needed).encode())
        return file, path

    def _reserved(self) -> int:
        """Return how many bytes are reserved; remove the reservations of workers that have died."""
        total = 0
        for path in self._directory.iterdir():
            if path.name == _LOCK:
                continue
            try:
                total += _reservation(path)
            except ValueError:
                # A worker's kit may have put anything there.
                path.unlink(missing_ok=True)
        return total


def _reservation(path: Path) -> int:
    """Return how many bytes a reservation is for; 0 where it is gone.

    Raises:
        ValueError: when nobody holds it, or it is none.
    """
    text = read_held(path, _MAX_DIGITS)
    return 0 if text is None else int(text)
