"""Standard output as one stream of JSON lines."""

from __future__ import annotations

import errno
import io
import json
import logging
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from gateway.cli.progress import Reporter
from gateway.cli.stream import event_line, one_stream
from gateway.errors import StoreError
from gateway.logs.events import log_path
from gateway.logs.files import SharedFile
from tests.support.waiting import wait


def stream(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    target = io.StringIO()
    monkeypatch.setattr(sys, "stdout", target)
    return target


def events(target: io.StringIO) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in target.getvalue().splitlines()]
    assert all({"time", "level", "process", "event"} <= line.keys() for line in lines)
    return lines


def test_everything_is_one_line_of_json_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = stream(monkeypatch)
    log_path(tmp_path).parent.mkdir()
    before = sys.stderr
    with one_stream(tmp_path):
        Reporter(Console(), as_json=True).say('it "starts"')
        print("\x1b[33m(raylet)\x1b[0m WARNING: many\n\nsecond")
        print("something", "wrong", file=sys.stderr)
        logging.StreamHandler(sys.stderr).handle(logging.makeLogRecord({"msg": "logged"}))
        sys.stderr.write(
            '{"time":"2026-01-01T00:00:00","level":"warning","process":"edge","event":"access"}\n'
        )
        SharedFile(log_path(tmp_path)).write(event_line("info", {"event": "worker.ready"}).encode())
    assert (sys.stdout, sys.stderr) == (target, before)
    shown = [(line["event"], line["level"], line.get("text", "")) for line in events(target)]
    assert shown == [
        ("said", "info", 'it "starts"'),
        ("printed", "info", "(raylet) WARNING: many"),
        ("printed", "info", "second"),
        ("printed", "warning", "something wrong"),
        ("printed", "warning", "logged"),
        ("access", "warning", ""),
        ("worker.ready", "info", ""),
    ]


def test_threads_do_not_mix_their_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = stream(monkeypatch)

    def say(name: str) -> None:
        for number in range(300):
            print(name, number)

    with one_stream(tmp_path):
        threads = [threading.Thread(target=say, args=(name,)) for name in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    texts = [line["text"] for line in events(target)]
    assert sorted(texts) == sorted(f"{name} {number}" for name in "abc" for number in range(300))


class FullDisk(io.StringIO):
    """A file whose disk is full for a while."""

    is_full = True

    def flush(self) -> None:
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_loses_lines_and_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = FullDisk()
    monkeypatch.setattr(sys, "stdout", target)
    log_path(tmp_path).parent.mkdir()
    with one_stream(tmp_path):
        Reporter(Console(), as_json=True).say("while it is full")
        SharedFile(log_path(tmp_path)).write(event_line("info", {"event": "while.full"}).encode())
        wait(lambda: "while.full" in target.getvalue())
        target.is_full = False
        SharedFile(log_path(tmp_path)).write(event_line("info", {"event": "worker.ready"}).encode())
    assert events(target)[-1]["event"] == "worker.ready", "what is logged later comes"


def test_why_a_start_failed_is_an_event_and_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = stream(monkeypatch)
    with pytest.raises(StoreError), one_stream(tmp_path):
        raise StoreError("the disk is full")
    (line,) = events(target)
    assert (line["event"], line["level"], line["error"]) == ("failed", "error", "the disk is full")
