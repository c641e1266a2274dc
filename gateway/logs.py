"""Logging: events with fields, as lines for people or as JSON, in one file for all processes of a node."""

from __future__ import annotations

import json
import logging
import os
import traceback
from datetime import UTC, datetime
from pathlib import Path

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
# Runtimes log too, and know nothing of the gateway.
_OURS = ("gateway", "runtimes")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, process, event, and the record's own fields."""

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
            # Ray replaces `print` in its replicas, which logging's own formatting goes through.
            line["error"] = "".join(traceback.format_exception(*record.exc_info))
        return json.dumps(line, default=str)


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    """What was logged beside the event's name; Ray adds fields of its own, which begin with `_`."""
    return {
        name: value
        for name, value in vars(record).items()
        if name not in _STANDARD and not name.startswith("_")
    }


def log_path(home: Path) -> Path:
    """The file that every process of a node logs into."""
    return home / "logs" / "kitserve.log"


def configure_logging(process: str, home: Path) -> None:
    """Send the logs of this process to the node's file. Calling it again changes nothing."""
    path = log_path(home)
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, delay=True)
    handler.set_name(str(path))
    handler.setFormatter(JsonFormatter(process))
    for name in _OURS:
        logger = logging.getLogger(name)
        if any(known.get_name() == str(path) for known in logger.handlers):
            continue
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
