"""Records that workers send become lines in files: bounded, private, and under their version's names."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.contract import AppName, PayloadBatch
from gateway.control.payload_log import payload_log
from gateway.control.payload_log.files import PayloadFiles
from gateway.control.payload_log.payload_log import PayloadLog, RecordedVersion
from gateway.control.state.versions import Version
from gateway.metrics.system import PayloadNumbers
from gateway.oci.pinned import PinnedReference
from gateway.payloads.rules import PayloadRules
from gateway.serving import Serving
from tests.support.waiting import wait

APP = AppName("iris-v1")
DIGEST = "sha256:" + "ab" * 32
REFERENCE = PinnedReference.parse(f"registry.example.com/iris:v1@{DIGEST}")
VERSION = Version(APP, "iris", REFERENCE, None, "", Serving())
RECORDED = RecordedVersion(VERSION, PayloadRules(1.0, max_bytes=1024 * 1024))
LINE = orjson.dumps({"schema": 1, "model": "bank", "version": "v9", "status": 200})


@pytest.fixture
def log(tmp_path: Path) -> Iterator[PayloadLog]:
    running = PayloadLog(tmp_path, lambda: {APP: RECORDED})
    running.start()
    wait(lambda: running.rules(APP) is not None)
    yield running
    running.stop()


def lines(home: Path) -> list[Any]:
    paths = sorted((home / "payloads" / "iris").glob("*.jsonl"))
    return [orjson.loads(line) for path in paths for line in path.read_bytes().splitlines()]


def test_records_are_written_under_the_names_of_their_version(log: PayloadLog, tmp_path: Path) -> None:
    log.take(PayloadBatch(APP, (LINE, b"no JSON", b"[1]"), dropped=3))
    wait(lambda: log.numbers()["iris"] == PayloadNumbers(1, 5))
    (line,) = lines(tmp_path)
    assert (line["model"], line["version"], line["digest"]) == ("iris", "v1", DIGEST)
    directory = tmp_path / "payloads"
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (directory, *sorted(directory.rglob("*")))]
    assert modes == [0o700, 0o700, 0o600]
    log.take(PayloadBatch(AppName("of-no-version"), (LINE,)))
    log.take(PayloadBatch(APP, (LINE,)))
    wait(lambda: log.numbers()["iris"] == PayloadNumbers(2, 5))


@pytest.mark.parametrize("depth", [254, 255, 1000])
def test_a_record_that_is_nested_too_deep_is_lost_and_the_next_is_written(
    log: PayloadLog, tmp_path: Path, depth: int
) -> None:
    # A caller chooses how deep a body is, and orjson reads what is deeper than what it writes.
    deep = b'{"schema":1,"request":%s}' % (b"[" * depth + b"]" * depth)
    log.take(PayloadBatch(APP, (deep,)))
    log.take(PayloadBatch(APP, (LINE,)))
    wait(lambda: log.numbers()["iris"] == PayloadNumbers(1, 1))
    assert len(lines(tmp_path)) == 1


def test_records_that_cannot_be_written_for_any_reason_end_no_others(
    log: PayloadLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(PayloadFiles, "write", lambda *_: 1 / 0)
        log.take(PayloadBatch(APP, (LINE, LINE)))
        wait(lambda: log.numbers()["iris"] == PayloadNumbers(0, 2))
    log.take(PayloadBatch(APP, (LINE,)))
    wait(lambda: log.numbers()["iris"] == PayloadNumbers(1, 2))
    assert len(lines(tmp_path)) == 1


def test_a_full_disk_loses_records_and_nothing_else(
    log: PayloadLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log.take(PayloadBatch(APP, (LINE,)))
    wait(lambda: log.numbers()["iris"].written == 1)
    write = os.write

    def full(file: int, data: Any) -> int:
        if len(data) > 4:
            return write(file, data[:4])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("gateway.control.payload_log.files.os.write", full)
    log.take(PayloadBatch(APP, (LINE,)))
    log.take(PayloadBatch(APP, (LINE, LINE)))
    wait(lambda: log.numbers()["iris"] == PayloadNumbers(1, 3))
    monkeypatch.undo()
    log.take(PayloadBatch(APP, (LINE,)))
    wait(lambda: log.numbers()["iris"] == PayloadNumbers(2, 3))
    assert len(lines(tmp_path)) == 2
    (warning,) = [record for record in caplog.records if record.message == "payloads.dropped"]
    assert "No space left" in vars(warning)["reason"]


def test_a_slow_disk_delays_nobody(log: PayloadLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payload_log, "_MAX_WAITING_BYTES", len(LINE) * 2)
    log.take(PayloadBatch(APP, (LINE,) * 3, dropped=1))
    assert log.numbers()["iris"] == PayloadNumbers(0, 4)


def test_the_oldest_file_goes_and_a_deleted_one_is_begun_anew(tmp_path: Path) -> None:
    directory = tmp_path / "payloads" / "iris"
    files = PayloadFiles(directory)
    files.write([b"a" * 1000], 8000)
    foreign = directory / "notes.txt"
    foreign.write_text("x" * 9000)
    first = next(directory.glob("*.jsonl"))
    for _ in range(20):
        files.write([b"b" * 998], 8000)
    kept = sorted(directory.glob("*.jsonl"))
    assert first not in kept
    assert sum(path.stat().st_size for path in kept) <= 8000
    assert len(kept) == 8
    assert foreign.exists()
    kept[-1].unlink()
    files.write([b"c"], 8000)
    assert sorted(directory.glob("*.jsonl"))[-1].read_bytes() == b"c\n"
    files.close()
    again = PayloadFiles(directory)
    again.write([b"d"], 8000)
    assert len(sorted(directory.glob("*.jsonl"))) == 9
    again.close()
