"""Where a config is read from: a regular file, or what the user's own shell gives a command to read."""

from __future__ import annotations

import os
import re
import select
import stat
from dataclasses import dataclass
from pathlib import Path

from gateway.errors import ConfigError
from gateway.files import TEXT_BYTES, read_regular

STANDARD_INPUT = Path("-")
"""What is written for it on a command line."""
_STANDARD_INPUT_FILE = 0
_GIVEN = re.compile(r"/dev/stdin|/(?:dev|proc/self)/fd/([0-9]+)")


@dataclass(frozen=True, slots=True)
class Source:
    """The text of a config."""

    text: str
    name: str
    """What errors call it."""
    is_file: bool
    """Whether it is a file, which can be read again, and whose author its reader chose."""


def read_source(path: Path) -> Source:
    """Return what a config says that is named on a command line, by its path or as `-`.

    A pipe is read only where this process was given it open, as a shell does for `|`, `<` and `<(…)`: to open
    one that stands anywhere may wait for ever.

    Raises:
        ConfigError: when it cannot be read, is too large, or is no text.
    """
    name = "standard input" if path == STANDARD_INPUT else str(path)
    given = _given(path)
    try:
        data = read_regular(path) if given is None else _read_given(given)
        return Source(data.decode(), name, is_file=given is None)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise ConfigError(name, [f"cannot be read: {reason or error}"]) from error


def may_read_again(path: Path) -> bool:
    """Tell whether what a path of a command line names can be read a second time: a pipe cannot."""
    return _given(path) is None


def _given(path: Path) -> int | None:
    """Return the open file that a path names, unless it is one that can be opened again."""
    if path == STANDARD_INPUT:
        return _STANDARD_INPUT_FILE
    match = _GIVEN.fullmatch(str(path))
    if match is None:
        return None
    number = int(match[1] or _STANDARD_INPUT_FILE)
    try:
        return None if stat.S_ISREG(os.fstat(number).st_mode) else number
    except OSError:
        return None


def _read_given(number: int) -> bytes:
    if stat.S_ISDIR(os.fstat(number).st_mode):
        raise OSError("it is a directory")
    data = bytearray()
    # One byte more shows a text that is too large.
    while len(data) <= TEXT_BYTES:
        # A shell may have given it so that a read does not wait.
        select.select([number], [], [])
        piece = os.read(number, TEXT_BYTES + 1 - len(data))
        if not piece:
            return bytes(data)
        data += piece
    raise OSError(f"it is larger than {TEXT_BYTES} bytes")
