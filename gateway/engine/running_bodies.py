"""Which bodies the workers of a version work on, in a file that outlives them.

The edge tries a call whose worker died on another worker, and most callers try again as well. A body that
ends each process that reads it would so end all workers of a version. Here each worker writes down what it
works on before it begins. What is still written when a worker has ended is what it ended with: the next
worker that gets the same body runs it alone, and if that one ends as well, no other is given it for a while.

All workers of a version on one machine share a file, mapped into memory, of entries of three words:

    key      the hash of a body
    holder   the number of the worker that works on it, 0 where none does; and above its lowest byte, how
             many workers ended with it
    time     when the last of them ended, in seconds since 1970

A worker holds a lock on the byte of its number, which the kernel frees when the process ends, however that
came. It is a lock of the process: those of an open file are freed only after the process's sockets are
closed, when the edge may have given the call to another worker already. So a process opens a file once.

A body has one entry where it may be, by its key: where that is taken, the body is not written down, which
loses little.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import secrets
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import xxhash

from gateway.errors import RefusedBody, StoreError

MAX_ENDED = 2
"""How many workers a body may end before it is refused."""
REFUSED_SECONDS = 300
"""How long it is refused."""
NOT_RECORDED = 0
"""The place of a body that is not written down."""

_FORM = 0x4B53_5242_0001
_HEADER_WORDS = 8
_ENTRIES = 4096
_ENTRY_WORDS = 3
_WORD = 8
_SIZE = (_HEADER_WORDS + _ENTRIES * _ENTRY_WORDS) * _WORD
_MAX_WORKERS = 255
_HOLDER = 0xFF
_ENDED_SHIFT = 8
_LOCK = struct.Struct("hhqqi4x")
"""The kernel's `struct flock`: type, whence, start, length, process."""
_OLD_SECONDS = 3600

log = logging.getLogger(__name__)


class RunningBodies:
    """The bodies that one worker works on; safe to use from several threads. It is open until `close`."""

    def __init__(self, path: Path) -> None:
        """Open the file of a version, or make it. Raises StoreError where that fails."""
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}") from error
        try:
            self._lock(0, waits=True)
            try:
                self._map = _mapped(self._file)
                os.utime(self._file)
                self._words = memoryview(self._map).cast("Q")
                self._seed = self._words[1]
                self._holder = self._number(path)
                self._bury_predecessors()
            finally:
                self._unlock(0)
        except (OSError, StoreError) as error:
            os.close(self._file)
            raise StoreError(f"{path}: {error}") from error

    def __enter__(self) -> RunningBodies:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._words.release()
        self._map.close()
        os.close(self._file)

    def begin(self, body: Sequence[bytes | memoryview]) -> int:
        """Write down that this worker begins with a body; returns its place, for `end`.

        Raises:
            RefusedBody: when as many workers as may ended with it a short while ago.
        """
        key = xxhash.xxh3_64_intdigest(body[0], self._seed) if len(body) == 1 else self._key(body)
        place = _HEADER_WORDS + key % _ENTRIES * _ENTRY_WORDS
        words = self._words
        if words[place + 1]:
            return self._begin_at_used(key, place)
        words[place] = key
        words[place + 1] = self._holder
        return place

    def end(self, place: int) -> None:
        """Erase a body that this worker has survived."""
        if place:
            self._words[place + 1] = 0

    def is_suspect(self, place: int) -> bool:
        """Tell whether a worker ended with the body: it is to be run alone, so that no other is suspected."""
        return place != NOT_RECORDED and self._words[place + 1] > _HOLDER

    def _begin_at_used(self, key: int, place: int) -> int:
        words = self._words
        holder, ended = words[place + 1] & _HOLDER, words[place + 1] >> _ENDED_SHIFT
        if holder and not self._has_ended(holder):
            # Of another body, or of this one, which many callers send.
            return NOT_RECORDED
        now = int(time.time())
        if holder:
            ended = self._bury(place)
        if now - words[place + 2] > REFUSED_SECONDS:
            ended = 0
        if ended and words[place] != key:
            return NOT_RECORDED
        if ended >= MAX_ENDED:
            raise RefusedBody(
                f"{ended} workers of this version ended while they worked on this body; it is refused for "
                f"{REFUSED_SECONDS // 60} minutes. Send another body, or tell who runs the model"
            )
        words[place] = key
        words[place + 1] = self._holder | ended << _ENDED_SHIFT
        return place

    def _bury(self, place: int) -> int:
        """Note that the holder of an entry ended with its body; returns how many have."""
        words = self._words
        ended = min((words[place + 1] >> _ENDED_SHIFT) + 1, MAX_ENDED)
        words[place + 2] = int(time.time())
        words[place + 1] = ended << _ENDED_SHIFT
        return ended

    def _bury_predecessors(self) -> None:
        """Note what earlier workers of this one's number ended with, as it would seem to be this one's."""
        for place in range(_HEADER_WORDS, len(self._words), _ENTRY_WORDS):
            if self._words[place + 1] & _HOLDER == self._holder:
                self._bury(place)

    def _key(self, body: Sequence[bytes | memoryview]) -> int:
        hasher = xxhash.xxh3_64(seed=self._seed)
        for piece in body:
            hasher.update(piece)
        return hasher.intdigest()

    def _number(self, path: Path) -> int:
        """Return the number of this worker, the first that no other has. Raises StoreError."""
        for number in range(1, _MAX_WORKERS + 1):
            if self._lock(number):
                return number
        raise StoreError(f"more than {_MAX_WORKERS} workers share {path}")

    def _lock(self, byte: int, *, waits: bool = False) -> bool:
        """Take the lock on a byte; False where another has it."""
        command = fcntl.F_SETLKW if waits else fcntl.F_SETLK
        try:
            fcntl.fcntl(self._file, command, _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0))
        except (BlockingIOError, PermissionError):
            return False
        return True

    def _unlock(self, byte: int) -> None:
        fcntl.fcntl(self._file, fcntl.F_SETLK, _LOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, byte, 1, 0))

    def _has_ended(self, holder: int) -> bool:
        if holder == self._holder:
            return False
        query = _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, holder, 1, 0)
        kind, *_ = _LOCK.unpack(fcntl.fcntl(self._file, fcntl.F_GETLK, query))
        return bool(kind == fcntl.F_UNLCK)


def _mapped(file: int) -> mmap.mmap:
    """Map the file, made anew where it is none of this form; its header has the form and the seed of keys."""
    if os.fstat(file).st_size == _SIZE:
        mapped = mmap.mmap(file, _SIZE)
        if int.from_bytes(mapped[:_WORD], "little") == _FORM:
            return mapped
        mapped.close()
    os.ftruncate(file, 0)
    os.ftruncate(file, _SIZE)
    mapped = mmap.mmap(file, _SIZE)
    mapped[_WORD : 2 * _WORD] = secrets.token_bytes(_WORD)
    mapped[:_WORD] = _FORM.to_bytes(_WORD, "little")
    return mapped


def open_running_bodies(directory: Path, version: str) -> RunningBodies | None:
    """Open the file of a version in a directory; None, with a line in the log, where that cannot be.

    Files of other versions that no worker has opened for an hour are removed.
    """
    try:
        bodies = RunningBodies(directory / version)
    except StoreError as error:
        log.warning("running_bodies.off", extra={"reason": str(error)})
        return None
    for other in directory.iterdir():
        try:
            if other.name != version and time.time() - other.stat().st_mtime > _OLD_SECONDS:
                _remove_unused(other)
        except OSError as error:
            log.debug("running_bodies.kept", extra={"file": other.name, "reason": str(error)})
    return bodies


def _remove_unused(path: Path) -> None:
    file = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        everything = _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        fcntl.fcntl(file, fcntl.F_SETLK, everything)
        path.unlink()
    finally:
        os.close(file)
