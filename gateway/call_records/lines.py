"""Reads records of calls, one JSON object a line, in the order of their times and in bounded memory."""

from __future__ import annotations

import heapq
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from gateway.call_records.mistaken import no_record
from gateway.errors import KitserveError
from gateway.rollout.records import CallRecord, Pair, Role

MAX_LINE = 64 * 1024
"""The longest line, in bytes, that a record may have."""
SLACK_SECONDS = 60.0
"""A record may come so long, by its time, after one that is later."""
_MAX_WAITING = 1_000_000
_LARGEST = 1e15
_STATUSES = range(100, 600)


class BadRecord(KitserveError):
    """A line that is no record of a call, or comes too late, or a file without any; it says which."""


class NoRecord(KitserveError):
    """A line that is no record of a call; the message says why, in words."""


def read_records(lines: Iterable[bytes], source: str) -> Iterator[CallRecord]:
    """Yield the records of a file in the order of their times; empty lines are passed over.

    Args:
        lines: the lines of the file. Those longer than `MAX_LINE` may come in parts.
        source: the file's name in errors.

    Raises:
        BadRecord: at the first line that cannot be used, or at the end of a file that has none.
    """
    waiting: list[tuple[float, int, CallRecord]] = []
    last, has_lines = -math.inf, False
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        has_lines = True
        try:
            record = read_record(line)
        except NoRecord as error:
            raise BadRecord(f"{source}, line {number}: {no_record(line) or error}") from None
        if record.time < last:
            raise BadRecord(
                f"{source}, line {number}: its time is {last - record.time:g} s before that of calls above, "
                f"and no more than {SLACK_SECONDS:g} s are waited for; sort the file by time"
            )
        heapq.heappush(waiting, (record.time, number, record))
        while waiting[0][0] < record.time - SLACK_SECONDS or len(waiting) > _MAX_WAITING:
            last, _, earliest = heapq.heappop(waiting)
            yield earliest
    if not has_lines:
        raise BadRecord(f"{source} is empty: it has no record of a call")
    while waiting:
        yield heapq.heappop(waiting)[2]


def read_record(line: bytes) -> CallRecord:
    """Read one record. Raises NoRecord."""
    if len(line) >= MAX_LINE:
        raise NoRecord(f"it is longer than {MAX_LINE:,} bytes, which no record is")
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = (
            error.msg if isinstance(error, json.JSONDecodeError) else "it is no text, or nested too deeply"
        )
        raise NoRecord(f"this is no JSON: {reason}") from None
    if not isinstance(fields, dict):
        raise NoRecord('a record is a JSON object, as {"time": …, "version": …}')
    status = fields.get("status")
    if type(status) is not int or status not in _STATUSES:
        raise NoRecord(f"status: {_shown(status)} is no HTTP status, which is from 100 to 599")
    caller = fields.get("caller")
    if caller is not None and not isinstance(caller, str):
        raise NoRecord(f"caller: {_shown(caller)} is neither text nor null")
    pair = fields.get("pair")
    if pair is not None and not isinstance(pair, dict):
        raise NoRecord(f"pair: {_shown(pair)} is neither an object nor null")
    version = _version(fields.get("version"))
    if pair is not None and version is Role.CANARY:
        raise NoRecord("pair: only a call that the stable version answered has one")
    return CallRecord(
        _number(fields, "time"),
        version,
        _text(fields, "worker"),
        caller,
        status,
        _number(fields, "seconds", minimum=0.0),
        _flag(fields, "weighted", default=True),
        None if pair is None else _pair(pair),
    )


def _pair(fields: Mapping[str, Any]) -> Pair:
    try:
        return Pair(_flag(fields, "agrees"), _flag(fields, "failed"), _number(fields, "seconds", minimum=0.0))
    except NoRecord as error:
        raise NoRecord(f"pair.{error}") from None


def _version(value: object) -> Role:
    if value not in list(Role):
        raise NoRecord(f'version: {_shown(value)} is neither "stable" nor "canary"')
    return Role(str(value))


def _number(fields: Mapping[str, Any], name: str, minimum: float = -_LARGEST) -> float:
    value: Any = fields.get(name)
    if type(value) not in (int, float) or not minimum <= value <= _LARGEST:
        what = "a number of seconds" if minimum < 0 else "a number of seconds from 0"
        raise NoRecord(f"{name}: {_shown(value)} is not {what}")
    return float(value)


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise NoRecord(f"{name}: {_shown(value)} is no text")
    return value


def _flag(fields: Mapping[str, Any], name: str, default: bool | None = None) -> bool:
    value = fields.get(name, default)
    if not isinstance(value, bool):
        raise NoRecord(f"{name}: {_shown(value)} is neither true nor false")
    return value


def _shown(value: object) -> str:
    """Write a value in few characters; what is missing is null in JSON."""
    text = "nothing" if value is None else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
