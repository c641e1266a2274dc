"""Where a `kitserve run` runs: two free ports, and a home of its own that shares the cache of the home.

    HOME/cache/             kits, of all runs, of `serve` and of `pull`
    HOME/runs/PORT/         the home of the run that listens at PORT; its lock says that it is in use
    HOME/runs/PORT/cache    a link to HOME/cache

So several runs and a `kitserve serve` go on beside each other, and none remembers what another served.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from gateway.errors import ControlError, StoreError
from gateway.files import lock_directory
from gateway.home import make_private, unusable
from gateway.kits.library import cache_directory
from gateway.logs.events import log_path
from gateway.wire.server import reserve_port

HOST = "127.0.0.1"
FIRST_PORT = 8080
"""The port that a run listens at where it is free."""
_RUNS = "runs"
_LAST_PORT = 65535
# A run takes a port, and its admin API mostly the one above it.
_STRIDE = 2
_TRIES = 100


@dataclass(frozen=True, slots=True)
class RunPlace:
    """Where one run listens, and its home."""

    port: int
    admin_port: int
    home: Path

    @property
    def url(self) -> str:
        """What calls on models begin with."""
        return f"http://{HOST}:{self.port}"

    @property
    def admin_url(self) -> str:
        """Where its metrics are."""
        return f"http://{HOST}:{self.admin_port}"


@contextmanager
def run_place(home: Path, port: int | None) -> Iterator[RunPlace]:
    """Find free ports, and take the home that belongs to them.

    Args:
        home: the directory for kits, state and logs.
        port: the port to listen at; None for 8080, or the next one that is free.

    Raises:
        ControlError: when there is no free port, or the one that is wanted is taken.
        StoreError: when the home cannot be used.
    """
    make_private(home)
    for candidate in _candidates(port):
        directory = home / _RUNS / str(candidate)
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = lock_directory(directory)
        except OSError as error:
            raise unusable(home, error) from error
        if lock is None:
            continue
        try:
            if is_free(candidate):
                _make_new(directory, cache_directory(home))
                yield RunPlace(candidate, _free_above(candidate), directory)
                return
        finally:
            os.close(lock)
    raise _no_port(port)


def is_free(port: int) -> bool:
    """Tell whether nobody listens at a port of this machine's own address."""
    try:
        reserve_port(HOST, port).close()
    except OSError:
        return False
    return True


def _candidates(port: int | None) -> Iterator[int]:
    if port is not None:
        yield port
        return
    yield from range(FIRST_PORT, FIRST_PORT + _STRIDE * _TRIES, _STRIDE)


def _free_above(port: int) -> int:
    above = range(port + 1, min(port + _TRIES, _LAST_PORT) + 1)
    below = range(max(port - _TRIES, 1024), port)
    for candidate in chain(above, below):
        if is_free(candidate):
            return candidate
    raise ControlError(
        f"no port near {port} is free for metrics and the admin API; choose another with --port"
    )


def _no_port(port: int | None) -> ControlError:
    if port is None:
        last = FIRST_PORT + _STRIDE * (_TRIES - 1)
        return ControlError(f"no port from {FIRST_PORT} to {last} is free; name one with --port")
    return ControlError(
        f"port {port} of {HOST} is taken; choose another with --port, or leave it out for the next free one"
    )


def _make_new(directory: Path, cache: Path) -> None:
    """Forget what an earlier run remembered, but for its log, and link the cache.

    Raises:
        StoreError: when that cannot be done.
    """
    logs = log_path(directory).parent
    try:
        cache.mkdir(mode=0o700, exist_ok=True)
        for path in directory.iterdir():
            if path == logs:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        cache_directory(directory).symlink_to(cache)
    except OSError as error:
        raise StoreError(f"{directory} cannot be made new: {error}; remove it") from error
