"""A noisy neighbour: processes that take all cores of this machine in spells."""

from __future__ import annotations

import os
import subprocess
import sys
from types import TracebackType

_TAKES_A_CORE = """
import random, sys, time
chance, spell, pause = random.Random(int(sys.argv[1])), float(sys.argv[2]), float(sys.argv[3])
while True:
    time.sleep(chance.expovariate(1 / pause))
    end = time.monotonic() + spell
    while time.monotonic() < end:
        pass
"""


class Neighbour:
    """Takes every core for `spell` seconds, then pauses for `pause` seconds on the average, until it ends."""

    def __init__(self, spell: float = 3.0, pause: float = 20.0, seed: int = 7) -> None:
        # All of them have the same chance, so that they take the cores together.
        self._command = [sys.executable, "-c", _TAKES_A_CORE, str(seed), str(spell), str(pause)]
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Neighbour:
        self._processes = [subprocess.Popen(self._command) for _ in range(2 * (os.cpu_count() or 1))]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
