"""Ray on this machine, watched: where a process that it needs dies, all of it is started again.

Where a raylet dies, workers and gateway live on, and nothing shows it; but no worker can be started any more,
and no model be changed. Without its GCS server, all of Ray ends within a minute. Nothing that they
leave can join another Ray: so workers and gateway are ended, and come back on a new one. The edge stays, and
answers 503 meanwhile. What Ray and Serve start again by themselves is left to them: Serve's controller, the
gateway, the workers.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from gateway.cli.processes import descendants, process_state
from gateway.config.config import GatewayConfig, parse_config
from gateway.control.state.database import STATE_FILE, State
from gateway.errors import ControlError, KitserveError

# As the kernel names them (proc(5), /proc/pid/comm).
_NEEDED = ("gcs_server", "raylet")
_STOPPED_SECONDS = 8.0
_DEATHS_ALLOWED = 3
# On a busy machine, Ray may miss a deadline of its own.
_STARTS = 3
_WINDOW_SECONDS = 600.0

NO_PROCESSES: Mapping[int, str] = MappingProxyType({})

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class _Process:
    name: str
    number: int
    start: str

    def __str__(self) -> str:
        return f"Ray's {self.name} (process {self.number})"


class RayProcesses:
    """The processes that the Ray of this process needs, of those that run by now.

    `earlier` are processes of before, each with its start time: they are not Ray's any more.
    """

    def __init__(self, clock: Clock = time.monotonic, earlier: Mapping[int, str] = NO_PROCESSES) -> None:
        self._clock = clock
        self._needed = [
            _Process(name, number, start)
            for number, start in descendants(os.getpid()).items()
            if (name := _name(number)) in _NEEDED and earlier.get(number) != start
        ]
        self._stopped_since: dict[_Process, float] = {}

    def failure(self) -> str:
        """Return which process has died, or was stopped for long; "" while all run."""
        now = self._clock()
        for process in self._needed:
            state = process_state(process.number, process.start)
            if state is None:
                return f"{process} died"
            if state not in ("T", "t"):
                self._stopped_since.pop(process, None)
            elif now - self._stopped_since.setdefault(process, now) >= _STOPPED_SECONDS:
                return f"{process} was stopped, and has not gone on for {_STOPPED_SECONDS:g} s"
        return ""

    def end_stopped(self) -> None:
        """Kill those that are stopped: Ray cannot be left while one of them does not answer."""
        for process in self._stopped_since:
            if process_state(process.number, process.start) is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.number, signal.SIGKILL)


class Supervision:
    """Starts Ray again where it failed.

    Args:
        start: starts Ray and the gateway, and applies the config; raises KitserveError when it cannot.
        stop: ends every process of Ray.
        say: tells a person.
        look: makes the watch of the processes, once Ray has started.
        clock: a monotonic clock, in seconds.
    """

    def __init__(
        self,
        start: Callable[[], None],
        stop: Callable[[], None],
        say: Callable[[str], None],
        look: Callable[[], RayProcesses] = RayProcesses,
        clock: Clock = time.monotonic,
    ) -> None:
        self._start = start
        self._stop = stop
        self._say = say
        self._look = look
        self._clock = clock
        self._processes = look()
        self._failures: list[float] = []

    def check(self) -> None:
        """Start Ray again, if it has failed; takes some seconds then.

        Raises:
            ControlError: when it fails again and again, or cannot be started again.
        """
        failure = self._processes.failure()
        if not failure:
            return
        now = self._clock()
        self._failures = [moment for moment in self._failures if now - moment < _WINDOW_SECONDS] + [now]
        if len(self._failures) > _DEATHS_ALLOWED:
            raise ControlError(
                f"{failure}, and Ray failed {len(self._failures)} times within "
                f"{_WINDOW_SECONDS / 60:g} minutes; see whether this machine has enough memory"
            )
        self._say(f"{failure}: Ray, the gateway and all workers are started again")
        for attempt in range(1, _STARTS + 1):
            try:
                self._processes.end_stopped()
                self._stop()
                self._start()
                break
            except KitserveError as error:
                if attempt == _STARTS:
                    raise ControlError(f"{failure}, and could not be started again: {error}") from error
                self._say(f"that failed, and is tried once more: {error}")
        self._processes = self._look()
        self._say("Ray runs again")


def config_in_force(home: Path, default: GatewayConfig) -> GatewayConfig:
    """Return the config that was applied last, or `default` where nothing was, or nobody can read it."""
    with contextlib.suppress(KitserveError):
        state = State(home / STATE_FILE)
        try:
            generation, document = state.document()
        finally:
            state.close()
        if generation:
            return parse_config(document)
    return default


def _name(process: int) -> str:
    try:
        return Path(f"/proc/{process}/comm").read_text().strip()
    except OSError:
        return ""
