"""Records of calls are read line by line, and what is wrong with one is told by its line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.call_records.lines import MAX_LINE, BadRecord, read_record, read_records
from gateway.rollout.records import CallRecord, Pair, Role

_RECORD: dict[str, Any] = {
    "time": 12.5,
    "version": "stable",
    "worker": "a",
    "caller": "b",
    "status": 200,
    "seconds": 0.25,
    "weighted": False,
    "pair": {"agrees": True, "failed": False, "seconds": 0.5},
}


def _line(**changes: object) -> bytes:
    return json.dumps({**_RECORD, **changes}).encode()


def _at(*times: float) -> list[bytes]:
    return [_line(time=time) for time in times]


def test_a_record_is_read_as_it_stands() -> None:
    expected = CallRecord(12.5, Role.STABLE, "a", "b", 200, 0.25, False, Pair(True, False, 0.5))
    assert read_record(_line()) == expected
    assert read_record(_line(more="of others")) == expected


def test_what_may_be_left_out_is_a_call_placed_by_chance_of_nobody_in_particular() -> None:
    line = json.dumps({name: _RECORD[name] for name in ("time", "version", "worker", "status", "seconds")})
    assert read_record(line.encode()) == CallRecord(12.5, Role.STABLE, "a", None, 200, 0.25, True, None)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b"{", "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"[1]", "a record is a JSON object"),
        (b"[" * 10_000, "no JSON"),
        (_line(time="12"), 'time: "12" is not a number of seconds'),
        (_line(time=True), "time: true is not a number of seconds"),
        (_line(time=float("nan")), "time: NaN is not"),
        (_line(time=10**400), "time: 1000"),
        (_line(seconds=float("inf")), "seconds: Infinity is not"),
        (_line(seconds=-1), "seconds: -1 is not a number of seconds from 0"),
        (_line(version="other"), 'version: "other" is neither "stable" nor "canary"'),
        (_line(version=[1]), "version: [1] is neither"),
        (_line(worker=None), "worker: nothing is no text"),
        (_line(status=99), "status: 99 is no HTTP status"),
        (_line(status="200"), 'status: "200" is no HTTP status'),
        (_line(caller=7), "caller: 7 is neither text nor null"),
        (_line(weighted=1), "weighted: 1 is neither true nor false"),
        (_line(pair=1), "pair: 1 is neither an object nor null"),
        (_line(pair={"agrees": True, "failed": False}), "pair.seconds: nothing is not"),
        (_line(pair={"failed": False, "seconds": 1}), "pair.agrees: nothing is neither true nor false"),
        (_line(version="canary"), "pair: only a call that the stable version answered has one"),
        (_line(caller="x" * MAX_LINE), "it is longer than"),
    ],
)
def test_a_line_that_is_no_record_is_told_by_its_number(line: bytes, fault: str) -> None:
    with pytest.raises(BadRecord) as raised:
        list(read_records([_line(), b"\n", line], "calls.jsonl"))
    assert str(raised.value).startswith("calls.jsonl, line 3: ")
    assert fault in str(raised.value)


def test_records_come_in_the_order_of_their_times() -> None:
    times = [record.time for record in read_records(_at(3, 1, 2, 100, 41, 170), "f")]
    assert times == sorted(times) == [1, 2, 3, 41, 100, 170]


def test_a_record_that_comes_too_late_is_an_error() -> None:
    with pytest.raises(BadRecord, match=r"f, line 3: its time is 9 s before .* sort the file by time"):
        list(read_records(_at(10, 71, 1), "f"))


def test_a_long_file_is_not_kept_in_memory() -> None:
    read = 0

    def lines() -> Iterator[bytes]:
        nonlocal read
        for read in range(100_000):
            yield _line(time=read)

    records = read_records(lines(), "f")
    assert next(records).time == 0
    assert read < 100
