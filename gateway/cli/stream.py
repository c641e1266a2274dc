"""Standard output as one stream of JSON lines, for those who read `docker logs` or the journal.

In it are: what `kitserve serve` says, this node's log (the gateway's and the workers' events), HAProxy's
access log, and whatever a library prints.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from gateway.errors import KitserveError
from gateway.foreign_text import printable_lines
from gateway.logs.events import log_path
from gateway.logs.follow import Follower

_LINE_START = '{"time":'
_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def event_line(level: str, fields: dict[str, Any]) -> str:
    """Return an event of this process in the form that the node's log has."""
    head = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "level": level,
        "process": f"serve-{os.getpid()}",
    }
    return json.dumps({**head, **fields}, default=str) + "\n"


@contextmanager
def one_stream(home: Path) -> Iterator[None]:
    """Make standard output and standard error one stream of JSON lines, and add the log of `home` to it.

    An error that is raised on purpose is an event of the stream, and raised again.
    """
    target, lock = sys.stdout, threading.Lock()
    before = sys.stdout, sys.stderr
    stdout, stderr = JsonStream(target, lock, "info"), JsonStream(target, lock, "warning")
    sys.stdout, sys.stderr = stdout, stderr
    follower = Follower(log_path(home), lambda lines: stdout.write_lines(lines.decode(errors="replace")))
    try:
        yield
    except KitserveError as error:
        stdout.write_lines(event_line("error", {"event": "failed", "error": str(error)}))
        raise
    finally:
        follower.stop()
        sys.stdout, sys.stderr = before


class JsonStream(io.TextIOBase):
    """A text file whose every line is JSON: lines of Kitserve's own pass, others become events."""

    def __init__(self, target: TextIO, lock: threading.Lock, level: str) -> None:
        super().__init__()
        self._target = target
        self._lock = lock
        self._level = level
        # Two threads must not mix within a line.
        self._pending = threading.local()

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._target.fileno()

    def write(self, text: str) -> int:
        *lines, rest = (getattr(self._pending, "text", "") + text).split("\n")
        self._pending.text = rest
        if lines:
            self.write_lines("".join(self._as_json(line) for line in lines))
        return len(text)

    def write_lines(self, lines: str) -> None:
        """Write whole lines of JSON; they are lost where nobody reads them, or the disk is full.

        Models are served all the same.
        """
        # Whoever runs code of a kit may write into the node's log.
        shown = printable_lines(lines)
        with self._lock, contextlib.suppress(OSError):
            self._target.write(shown)
            self._target.flush()

    def _as_json(self, line: str) -> str:
        if line.startswith(_LINE_START):
            return line + "\n"
        text = _ESCAPES.sub("", line).strip()
        return event_line(self._level, {"event": "printed", "text": text}) if text else ""
