"""Says what a file is that was taken for records of calls, or for an access log: told by one line of it."""

from __future__ import annotations

import json
from typing import Any

from gateway.files import compression_of

_ZIP = b"PK\x03\x04"
_RECORDS_OF_LOG = "`kitserve rollout records LOG --model NAME` makes records of calls out of an access log"
_TEXT = "this is text, and no JSON"


def not_json(line: bytes) -> str:
    """Return what a file is that has a line like this, and what to do; "" where it may be JSON lines."""
    if program := compression_of(line):
        return f"the file is compressed ({program}); read it by `{program} -dc FILE | kitserve … -`"
    if line.startswith(_ZIP):
        return "the file is a zip archive; read it by `unzip -p FILE | kitserve … -`"
    if not _is_text(line):
        return "this is binary, and no JSON"
    # What begins as JSON does is a faulty line rather than one of another file.
    if line.lstrip()[:1] not in (b"{", b"[") and _fields(line) is None:
        return _TEXT
    return ""


def no_record(line: bytes) -> str:
    """Return what a line is, taken for a record of a call, and what to do; "" where nothing is known."""
    fields = _fields(line) or {}
    if fields.get("event") == "access":
        return f"this is a line of the access log; {_RECORDS_OF_LOG}"
    if "event" in fields and "level" in fields:
        return f"this is a line of Kitserve's log; {_RECORDS_OF_LOG}"
    if "schema" in fields and "digest" in fields:
        return "this is a record of the payload log, which `kitserve replay` sends to a kit"
    reason = not_json(line)
    return f"{_TEXT}; {_RECORDS_OF_LOG} of JSON lines" if reason == _TEXT else reason


def _is_text(line: bytes) -> bool:
    if b"\0" in line:
        return False
    try:
        line.decode()
    except UnicodeDecodeError as error:
        # The line may be a part of one, and end within a character.
        return error.reason == "unexpected end of data"
    return True


def _fields(line: bytes) -> dict[str, Any] | None:
    """Return what an object of JSON holds, nothing for other JSON; None for what is no JSON at all."""
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else {}
