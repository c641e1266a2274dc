"""Logging: events with fields as JSON lines, in one file for all processes of a node.

Of one warning or error, no more than a few lines a second are written (`limits`); how many were left out is
an event of its own, `lines.omitted`. One that says again what was just said is counted (`repeats`). What is
no trouble is always written. No field is longer than a person reads.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path

from gateway.logs.counts import LineCounts
from gateway.logs.files import SharedFile
from gateway.logs.limits import LineLimiter
from gateway.logs.repeats import REPEAT_SECONDS, REPEATS, Repeats

OMITTED = "lines.omitted"
_OMITTED_SECONDS = 2.0
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_MAX_FIELD = 8_000
_MAX_TRACEBACK = 32_000
_PACKAGES = ("gateway", "runtimes")


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON: time, level, process, event, and the record's own fields."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "process": f"{self._process}-{os.getpid()}",
            "event": record.getMessage(),
            **{name: _cut(value, _MAX_FIELD) for name, value in fields_of(record).items()},
        }
        if record.exc_info:
            # Not `formatException`, which calls `print`: Ray replaces that in its replicas.
            line["error"] = _cut("".join(traceback.format_exception(*record.exc_info)), _MAX_TRACEBACK)
        return json.dumps(line, default=str)


class NodeHandler(logging.Handler):
    """Writes records into the file that all processes of a node share, within limits."""

    def __init__(self, file: SharedFile, limiter: LineLimiter) -> None:
        super().__init__()
        self._file = file
        self._limiter = limiter
        self._repeats = Repeats(REPEAT_SECONDS)
        self.counts = LineCounts()
        """What came here, written or not."""
        self._is_timed = self._is_counting = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; `handle` holds this handler's lock meanwhile."""
        self.counts.count(record)
        # By the text before its arguments are put in, which callers may choose.
        is_trouble = record.levelno >= logging.WARNING
        if is_trouble and not self._repeats.is_new(record, fields_of(record)):
            self._tell_repeats_soon()
            return
        if is_trouble and not self._limiter.allows((record.name, str(record.msg), record.levelno)):
            self._tell_omitted_soon()
            return
        self._write(record)

    def close(self) -> None:
        """Tell what was left out, and close the file."""
        self._tell_omitted()
        self._tell_repeats(is_over=True)
        self._file.close()
        super().close()

    def _write(self, record: logging.LogRecord) -> None:
        try:
            self._file.write(self.format(record).encode(errors="backslashreplace") + b"\n")
        except Exception:
            self.handleError(record)

    def _tell_repeats_soon(self) -> None:
        if not self._is_counting:
            self._is_counting = True
            timer = threading.Timer(REPEAT_SECONDS, self._tell_repeats)
            timer.daemon = True
            timer.start()

    def _tell_repeats(self, *, is_over: bool = False) -> None:
        self.acquire()
        try:
            self._is_counting = False
            for record, count in self._repeats.take_due(is_over=is_over):
                self._write(logging.makeLogRecord({**vars(record), REPEATS: count}))
            if self._repeats.is_counting and not is_over:
                self._tell_repeats_soon()
        finally:
            self.release()

    def _tell_omitted_soon(self) -> None:
        if not self._is_timed:
            self._is_timed = True
            timer = threading.Timer(_OMITTED_SECONDS, self._tell_omitted)
            timer.daemon = True
            timer.start()

    def _tell_omitted(self) -> None:
        self.acquire()
        try:
            self._is_timed = False
            for kind, lines in self._limiter.take_omitted().items():
                name, event, level = kind if isinstance(kind, tuple) else ("", str(kind), logging.WARNING)
                fields = {
                    "name": name or __name__,
                    "levelno": level,
                    "levelname": logging.getLevelName(level),
                    "msg": OMITTED,
                    "created": time.time(),
                }
                self._write(logging.makeLogRecord({**fields, "omitted": event, "lines": lines}))
        finally:
            self.release()


def _cut(value: object, characters: int) -> object:
    """Return a value of a line; of a long text, its beginning and its end."""
    if not isinstance(value, str) or len(value) <= characters:
        return value
    return f"{value[: characters // 2]} … {value[-characters // 2 :]}"


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    """Return the fields that were logged with an event, without those of Ray, which begin with `_`."""
    return {
        name: value
        for name, value in vars(record).items()
        if name not in _STANDARD and not name.startswith("_")
    }


def log_path(home: Path) -> Path:
    """Return the file that every process of a node logs into."""
    return home / "logs" / "kitserve.log"


def configure_logging(process: str, home: Path) -> LineCounts:
    """Send the logs of this process to the node's file. Calling it again changes nothing.

    Returns what counts this process's lines of trouble.
    """
    path = log_path(home)
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = NodeHandler(SharedFile(path), LineLimiter())
    handler.set_name(str(path))
    handler.setFormatter(JsonFormatter(process))
    for name in _PACKAGES:
        logger = logging.getLogger(name)
        present = next((other for other in logger.handlers if other.get_name() == str(path)), None)
        if isinstance(present, NodeHandler):
            handler = present
            continue
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    return handler.counts
