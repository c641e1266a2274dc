"""Lines of the log, for people: which of them are wanted, and how each is shown. Pure.

What is in a line may be of a caller, a kit or a registry: whoever prints it makes it printable.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Any

LEVELS = ("debug", "info", "warning", "error", "critical")
"""The levels of lines, the least first."""
_SHORT_DIGEST = len("sha256:") + 12
_HEAD = ("time", "level", "process", "event", "model", "version", "request_id", "error")
_BY_MODEL = ("routes", "kits_before", "kits_after")
"""Fields that have something of each model, by its name."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which lines are shown."""

    model: str = ""
    """Of which model; "" for all, and what is of none."""
    level: str = LEVELS[0]
    """The least level."""
    since: datetime | None = None
    """Not those of before."""

    def has(self, line: Mapping[str, Any]) -> bool:
        """Tell whether a line is shown."""
        level = line.get("level")
        if level in LEVELS and LEVELS.index(str(level)) < LEVELS.index(self.level):
            return False
        moment = _moment(line)
        if self.since is not None and moment is not None and moment < self.since:
            return False
        return not self.model or _is_about(line, self.model)


def read_line(line: bytes) -> dict[str, Any]:
    """Return the fields of a line; of one that is no JSON object, the text as `event`."""
    text = line.decode(errors="replace").rstrip("\n")
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        fields = None
    return fields if isinstance(fields, dict) else {"event": text}


def shown_line(line: Mapping[str, Any], zone: tzinfo | None = None) -> str:
    """Write a line for people: when, how bad, what, of which model, version and call, then the other fields.

    A traceback follows in lines of its own. `zone` is the time zone; None for this machine's.
    """
    moment = _moment(line)
    when = "-" if moment is None else moment.astimezone(zone).strftime("%Y-%m-%d %H:%M:%S")
    subject = " ".join(str(line[name]) for name in ("model", "version") if line.get(name))
    words = [when, f"{line.get('level', '-')!s:7}", str(line.get("event", "-"))]
    words += [f"{subject}:"] if subject else []
    words += [f"request {line['request_id']}"] if line.get("request_id") else []
    words += [*_others(line), *([f"({line['process']})"] if line.get("process") else [])]
    trace = str(line.get("error", "")).rstrip()
    return "\n".join([" ".join(words), *(f"    {part}" for part in trace.splitlines())])


def _others(line: Mapping[str, Any]) -> Iterator[str]:
    for name, value in line.items():
        # The name of an application is its model, version and digest once more.
        if name in _HEAD or (name == "app" and line.get("model")):
            continue
        if name == "digest":
            value = str(value)[:_SHORT_DIGEST]
        yield f"{name}={value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"


def _is_about(line: Mapping[str, Any], model: str) -> bool:
    if "model" in line:
        return bool(line["model"] == model)
    if str(line.get("app", "")).startswith(f"{model}."):
        return True
    return any(isinstance(line.get(name), dict) and model in line[name] for name in _BY_MODEL)


def _moment(line: Mapping[str, Any]) -> datetime | None:
    try:
        moment = datetime.fromisoformat(str(line.get("time", "")))
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
