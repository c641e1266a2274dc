"""The end of a process in which no Python runs any more, as C code keeps the interpreter to itself.

No thread of Python could notice. `faulthandler` has a timer in C: unless it is set again in time, it writes
where each thread is into a file, and ends the process. The worker that starts in its place finds the file.
"""

from __future__ import annotations

import faulthandler
import os
import threading
from contextlib import suppress
from pathlib import Path

from gateway.files import open_in_shared, open_regular

HUNG_DIRECTORY = "hung"
"""Where in a home the files are."""
_TEXT_BYTES = 4096


class HangTimer:
    """The process's only such timer; a file below `home` for each process of `name` has what it wrote."""

    def __init__(self, home: Path, name: str) -> None:
        directory = home / HUNG_DIRECTORY
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self._name = name
        self._path = directory / f"{name}.{os.getpid()}"
        self._file = open_in_shared(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self._kept: threading.Event | None = None

    def earlier(self) -> str:
        """Return where a process of this name was when its timer ended it, "" where none did; told once."""
        text = ""
        for path in self._directory.glob(f"{self._name}.*"):
            if path != self._path and not _runs(path.suffix[1:]):
                # Of a link, what it leads to would be logged.
                with suppress(OSError), os.fdopen(open_regular(path, follows_link=False), "rb") as file:
                    text = text or file.read(_TEXT_BYTES).decode(errors="replace")
                with suppress(OSError):
                    path.unlink()
        return text

    def set(self, seconds: float) -> None:
        """End the process so long from now, unless this is called again before, or `stop`."""
        faulthandler.dump_traceback_later(seconds, exit=True, file=self._file)

    def keep(self, seconds: float, pause: float = 1.0) -> None:
        """From now on, end the process once no Python ran for so long; a thread sets the timer again."""
        stopped = self._kept = threading.Event()

        def set_again() -> None:
            while not stopped.wait(pause):
                self.set(seconds)

        self.set(seconds)
        threading.Thread(target=set_again, name="hang-timer", daemon=True).start()

    def stop(self) -> None:
        """Take the timer away, and the file."""
        if self._kept is not None:
            self._kept.set()
        faulthandler.cancel_dump_traceback_later()
        self._path.unlink(missing_ok=True)


def _runs(pid: str) -> bool:
    return pid.isdecimal() and Path("/proc", pid).exists()
