"""Records of calls are made out of lines of the access log."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.call_records.access_log import Converter
from gateway.call_records.lines import read_record

_LINE: dict[str, Any] = {
    "time": "2026-11-29T12:00:01+00:00",
    "event": "access",
    "client": "192.0.2.7:40000",
    "path": "/v2/models/iris/infer",
    "status": 200,
    "model": "iris",
    "role": "canary",
    "worker": "iris.v2/w1",
    "total_ms": 12,
    "end": "--",
}


def _convert(*lines: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, int]]:
    converter = Converter("iris")
    encoded = [json.dumps(line, separators=(",", ":")).encode() for line in lines]
    return list(converter.convert(encoded)), dict(converter.skipped)


def test_a_call_becomes_a_record_that_can_be_read() -> None:
    (record,), skipped = _convert(_LINE)
    read = read_record(json.dumps(record).encode())
    assert (read.version, read.worker, read.status, read.seconds) == ("canary", "iris.v2/w1", 200, 0.012)
    assert read.time == 1795953601
    assert read.is_weighted
    assert read.pair is None
    assert not skipped


def test_lines_that_another_program_wrote_anew_are_read_and_other_events_passed_over() -> None:
    converter = Converter("iris")
    lines = [_LINE, {**_LINE, "event": "kit.pulled", "kind": "access"}]
    (record,) = converter.convert([json.dumps(line, indent=None).encode() for line in lines])
    assert record["status"] == 200
    assert not converter.skipped


def test_the_time_is_as_fine_as_the_line_has_it() -> None:
    (record,), _ = _convert({**_LINE, "ended_us": 1795953601250000})
    assert record["time"] == 1795953601.25


def test_callers_are_told_apart_by_a_hash_of_key_or_address_and_not_by_port() -> None:
    records, _ = _convert(
        _LINE,
        {**_LINE, "client": "192.0.2.7:50000"},
        {**_LINE, "client": "192.0.2.8:40000"},
        {**_LINE, "key": "team"},
        {**_LINE, "key": "team", "client": "192.0.2.9:1"},
        {**_LINE, "key": "-"},
    )
    callers = [record["caller"] for record in records]
    assert callers[0] == callers[1] == callers[5]
    assert callers[3] == callers[4]
    assert len(set(callers)) == 3
    assert not any("192" in caller or "team" in caller for caller in callers)


@pytest.mark.parametrize(
    ("changes", "is_weighted"),
    [
        ({"placed": "1"}, True),
        ({"placed": "-"}, False),
        ({"path": "/v2/models/iris/versions/v2/infer"}, False),
    ],
)
def test_a_call_counts_where_chance_placed_it(changes: dict[str, str], is_weighted: bool) -> None:
    (record,), _ = _convert({**_LINE, **changes})
    assert record["weighted"] is is_weighted


def test_what_makes_no_record_is_counted_by_reason() -> None:
    records, skipped = _convert(
        {**_LINE, "event": "other"},
        {**_LINE, "model": "other"},
        {**_LINE, "role": "-"},
        {**_LINE, "end": "CD"},
        {**_LINE, "status": -1},
        {**_LINE, "total_ms": None},
        {**_LINE, "time": "yesterday"},
    )
    assert not records
    assert skipped == {
        "it is of another model": 1,
        "it was of no rollout, or the edge refused it": 1,
        "its caller hung up": 1,
        "time, status or total_ms cannot be read": 3,
    }


def test_a_damaged_line_is_counted() -> None:
    converter = Converter("iris")
    assert not list(converter.convert([b'{"event":"access","stat', b'["event":"access"]', b"\xff"]))
    assert not list(converter.convert([b'["a", {"event":"access"}]']))
    assert converter.skipped == {"the line is no JSON object": 3}


def test_a_line_that_does_not_say_how_its_call_ended_is_taken() -> None:
    records, skipped = _convert({name: value for name, value in _LINE.items() if name != "end"})
    assert len(records) == 1
    assert not skipped
