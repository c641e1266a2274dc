"""Logging: events with fields as JSON lines, in one file for all processes of a node."""

from __future__ import annotations

import json
import logging
import os
import traceback
from datetime import UTC, datetime
from pathlib import Path

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
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
            **fields_of(record),
        }
        if record.exc_info:
            # Not `formatException`, which calls `print`: Ray replaces that in its replicas.
            line["error"] = "".join(traceback.format_exception(*record.exc_info))
        return json.dumps(line, default=str)


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


def configure_logging(process: str, home: Path) -> None:
    """Send the logs of this process to the node's file. Calling it again changes nothing."""
    path = log_path(home)
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, delay=True)
    handler.set_name(str(path))
    handler.setFormatter(JsonFormatter(process))
    for name in _PACKAGES:
        logger = logging.getLogger(name)
        if any(existing.get_name() == str(path) for existing in logger.handlers):
            continue
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
