"""Makes records of calls out of lines of the edge's access log.

What the log does not hold, records lack: which calls were mirrored, what the canary made of them, and what a
caller stuck by. Callers are told apart by the names of their keys, or else by their addresses.
Lines of earlier releases have no `placed`: of these, calls count whose path names no version.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

_EVENT = "access"
_QUOTED_EVENT = b'"access"'
_ROLES = ("stable", "canary")
_NAMES_VERSION = re.compile(r"/versions/")
_HANG_UPS = ("C", "c")
"""How HAProxy's codes begin where the caller ended the call."""
_HASH_CHARACTERS = 16
_UNKNOWN = ("", "-")


@dataclass(slots=True)
class Converter:
    """Converts the lines of one model; `skipped` counts the others, by reason.

    `canary` is a tag or the beginning of a digest; without it, every canary's calls make records. Then
    `canaries` tells which there were: a log of days may hold several rollouts.
    """

    model: str
    canary: str | None = None
    skipped: Counter[str] = field(default_factory=Counter)
    canaries: dict[str, str] = field(default_factory=dict)
    """The tags of the canaries whose calls made records, by digest."""

    def convert(self, lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
        """Yield a record for each call that either version answered, in the order of the lines."""
        for line in lines:
            # Of days of a log, few lines are read as JSON that are none of calls.
            if _QUOTED_EVENT not in line:
                continue
            try:
                fields = json.loads(line)
            except (ValueError, RecursionError):
                fields = None
            if not isinstance(fields, dict):
                self.skipped["the line is no JSON object"] += 1
                continue
            if fields.get("event") != _EVENT:
                continue
            reason = self._reason(fields)
            record = None if reason else _record(fields)
            if record is None:
                self.skipped[reason or "time, status or total_ms cannot be read"] += 1
            else:
                if record["version"] == "canary":
                    self.canaries[str(fields.get("digest"))] = str(fields.get("version"))
                yield record

    def _reason(self, fields: Mapping[str, Any]) -> str:
        """Return why a call makes no record, "" where it does."""
        if fields.get("model") != self.model:
            return "it is of another model"
        if fields.get("role") not in _ROLES:
            return "it was of no rollout, or the edge refused it"
        if self.canary is not None and (fields["role"] == "canary") != _is_version(fields, self.canary):
            return "another canary answered it, or this one when it had become the stable version"
        if str(fields.get("end", ""))[:1] in _HANG_UPS and str(fields.get("end")) != "--":
            return "its caller hung up"
        return ""


def _is_version(fields: Mapping[str, Any], version: str) -> bool:
    digest = str(fields.get("digest", ""))
    return fields.get("version") == version or digest.startswith((version, f"sha256:{version}"))


def _record(fields: Mapping[str, Any]) -> dict[str, Any] | None:
    try:
        time = _time(fields)
        status, total = int(fields["status"]), float(fields["total_ms"])
    except (KeyError, TypeError, ValueError):
        return None
    if total < 0 or status < 100:
        return None
    placed = fields.get("placed")
    is_placed = not _NAMES_VERSION.search(str(fields.get("path", ""))) if placed is None else placed == "1"
    return {
        "time": time,
        "version": fields["role"],
        "worker": str(fields.get("worker", "")),
        "caller": _caller(fields),
        "status": status,
        "seconds": round(total / 1000, 6),
        "weighted": is_placed,
        "pair": None,
    }


def _time(fields: Mapping[str, Any]) -> float:
    """Return when a call ended, in seconds; lines of earlier releases say it in whole seconds."""
    if "ended_us" in fields:
        return int(fields["ended_us"]) / 1e6
    return datetime.fromisoformat(str(fields["time"])).timestamp()


def _caller(fields: Mapping[str, Any]) -> str | None:
    """Return a hash of the name of the caller's key, else of its address; it is the same in every file."""
    key = fields.get("key")
    if isinstance(key, str) and key not in _UNKNOWN:
        caller = f"key:{key}"
    else:
        caller = str(fields.get("client", "")).rpartition(":")[0]
    if caller in _UNKNOWN:
        return None
    return hashlib.sha256(caller.encode()).hexdigest()[:_HASH_CHARACTERS]
