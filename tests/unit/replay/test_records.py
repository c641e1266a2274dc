"""Records are read in order; lines that cannot be replayed are counted by reason, and end nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.payloads.record import SCHEMA
from gateway.replay import records
from gateway.replay.calls import CannotReplay, replayed_call
from gateway.replay.records import NoRecords, Reader

RECORD: dict[str, Any] = {
    "schema": SCHEMA,
    "request_id": "1",
    "model": "iris",
    "digest": "sha256:12",
    "protocol": "rest",
    "status": 200,
    "seconds": 0.001,
    "request": {"inputs": []},
    "answer": {"outputs": []},
}


def line(**changes: Any) -> bytes:
    return orjson.dumps({**RECORD, **changes}) + b"\n"


def read(path: Path) -> tuple[list[str], dict[str, int]]:
    reader = Reader("iris")
    return [record.request_id for record in reader.read(path)], dict(reader.skipped)


def test_files_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_bytes(line(request_id="3") + b"\n" + line(request_id="4")[:-1])
    (tmp_path / "a.jsonl").write_bytes(line(request_id="1") + line(request_id="2", status=500))
    (tmp_path / "notes.txt").write_bytes(b"no records")
    assert read(tmp_path) == (["1", "2", "3", "4"], {})
    assert read(tmp_path / "a.jsonl") == (["1", "2"], {})


def test_what_cannot_be_replayed_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_LINE", 1000)
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        line(request_id="1")
        + line()[:50]
        + b"\n\xff\x00\n"
        + b"x" * 2500
        + b"\n"
        + b"x" * 1000
        + b"\n"
        + line(request_id="2")
        + line(model="bank")
        + line(status=400)
        + line(status=503)
        + line(request=None, omitted={"request": "too large: 70,000 bytes, and max_body is 65,536"})
        + line(redacted=["inputs.age"])
        + line(redacted=["request/user"])
        + line(request_id="3", redacted=["outputs.y"])
        + line(schema=2)
        + line()[:-20]
    )
    assert read(path) == (
        ["1", "2", "3"],
        {
            "it is not JSON: damaged, or cut off": 3,
            "the line is longer than a record may be": 2,
            "it is of another model": 1,
            "the call was refused (400)": 1,
            "the call was refused (503)": 1,
            "its request was left out (too large)": 1,
            "its request is redacted": 2,
            "another release of Kitserve wrote it, in another form": 1,
        },
    )


def test_what_is_no_file_of_records_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "missing.jsonl", tmp_path / "pipe", tmp_path):
        with pytest.raises(NoRecords):
            read(path)


@pytest.mark.parametrize("depth", [254, 255, 1000])
def test_a_request_that_is_nested_too_deep_is_not_replayed(tmp_path: Path, depth: int) -> None:
    path = tmp_path / "a.jsonl"
    deep = b'{"metadata":%s}' % (b"[" * depth + b"]" * depth)
    path.write_bytes(line(path="/v1/chat/completions", protocol="openai", request=orjson.Fragment(deep)))
    (record,) = Reader("iris").read(path)
    with pytest.raises(CannotReplay, match="nested too deep"):
        replayed_call(record)


def test_reasons_of_a_file_of_strangers_are_few_and_short(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    omissions = ["x" * 100_000, *(f"\x1b[2Jreason {number}" for number in range(300))]
    path.write_bytes(b"".join(line(request=None, omitted={"request": text}) for text in omissions))
    _, skipped = read(path)
    assert (len(skipped), sum(skipped.values())) == (101, 301)
    assert all(len(reason) < 120 and reason.isprintable() for reason in skipped)
