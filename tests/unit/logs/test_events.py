from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gateway.logs.events import JsonFormatter, NodeHandler, configure_logging, fields_of, log_path
from gateway.logs.files import SharedFile
from gateway.logs.limits import BURST, LineLimiter
from tests.support.waiting import wait

log = logging.getLogger("gateway.tests")


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """Give our loggers back as they were found."""
    loggers = [logging.getLogger(name) for name in ("gateway", "runtimes")]
    saved = [(list(logger.handlers), logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, (handlers, level, propagate) in zip(loggers, saved, strict=True):
        for handler in set(logger.handlers) - set(handlers):
            logger.removeHandler(handler)
            handler.close()
        logger.setLevel(level)
        logger.propagate = propagate


def written(home: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log_path(home).read_text().splitlines()]


def test_an_event_is_one_line_of_json_with_its_fields(tmp_path: Path) -> None:
    configure_logging("worker", tmp_path)
    log.info("kit.opened", extra={"digest": "sha256:ab", "bytes": 3, "path": Path("/x"), "text": 'a\n"b"'})
    (line,) = written(tmp_path)
    age = datetime.now(UTC) - datetime.fromisoformat(line.pop("time"))
    assert abs(age.total_seconds()) < 60
    assert line == {
        "level": "info",
        "process": f"worker-{os.getpid()}",
        "event": "kit.opened",
        "digest": "sha256:ab",
        "bytes": 3,
        "path": "/x",
        "text": 'a\n"b"',
    }


def test_what_ray_adds_to_a_record_is_left_out() -> None:
    record = logging.makeLogRecord({"_ray_timestamp_ns": 1, "kit": "iris"})
    assert fields_of(record) == {"kit": "iris"}


def test_an_event_may_have_arguments(tmp_path: Path) -> None:
    configure_logging("worker", tmp_path)
    log.warning("%d of %s", 3, "four")
    assert [(line["level"], line["event"]) for line in written(tmp_path)] == [("warning", "3 of four")]


def test_an_exception_is_in_its_line(tmp_path: Path) -> None:
    configure_logging("worker", tmp_path)
    try:
        int("no\nsuch")
    except ValueError:
        log.exception("call.failed", extra={"request_id": "r-1"})
    log.error("quiet", exc_info=False)
    failed, quiet = written(tmp_path)
    assert (failed["level"], failed["event"], failed["request_id"]) == ("error", "call.failed", "r-1")
    assert failed["error"].startswith("Traceback (most recent call last):")
    assert "ValueError: invalid literal for int()" in failed["error"]
    assert "error" not in quiet


def test_details_for_debugging_are_left_out(tmp_path: Path) -> None:
    configure_logging("worker", tmp_path)
    log.debug("detail")
    log.info("event")
    assert [line["event"] for line in written(tmp_path)] == ["event"]


def test_configuring_twice_writes_each_event_once(tmp_path: Path) -> None:
    before = len(logging.getLogger("gateway").handlers)
    configure_logging("worker", tmp_path)
    configure_logging("worker", tmp_path)
    assert len(logging.getLogger("gateway").handlers) == before + 1
    log.info("once")
    assert [line["event"] for line in written(tmp_path)] == ["once"]


def test_events_go_to_the_file_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    configure_logging("worker", tmp_path)
    log.error("event")
    assert len(written(tmp_path)) == 1
    assert caplog.records == []


def test_what_was_logged_before_is_kept(tmp_path: Path) -> None:
    log_path(tmp_path).parent.mkdir()
    log_path(tmp_path).write_text('{"event": "earlier"}\n')
    configure_logging("gateway", tmp_path)
    log.info("later")
    assert [line["event"] for line in written(tmp_path)] == ["earlier", "later"]


def test_runtimes_log_into_the_same_file(tmp_path: Path) -> None:
    configure_logging("worker", tmp_path)
    logging.getLogger("runtimes.tests").warning("model.odd", extra={"file": "model.joblib"})
    assert [line["event"] for line in written(tmp_path)] == ["model.odd"]


def test_a_flood_of_one_error_is_cut_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.logs.events._OMITTED_SECONDS", 0.2)
    configure_logging("worker", tmp_path)
    for number in range(5000):
        log.error("call.failed", extra={"request_id": str(number)})
        if number % 100 == 0:
            log.info("version.deployed")
    log.error("another")

    def omitted() -> list[dict[str, Any]]:
        return [line for line in written(tmp_path) if line["event"] == "lines.omitted"]

    wait(lambda: bool(omitted()))
    lines = written(tmp_path)
    shown = sum(line["event"] == "call.failed" for line in lines)
    assert 50 <= shown < 200
    assert sum(line["event"] == "version.deployed" for line in lines) == 50
    assert sum(line["event"] == "another" for line in lines) == 1
    wait(lambda: shown + sum(line["lines"] for line in omitted()) == 5000)
    first = omitted()[0]
    assert (first["level"], first["omitted"], first["process"]) == (
        "error",
        "call.failed",
        f"worker-{os.getpid()}",
    )


def test_what_was_left_out_is_told_at_the_end(tmp_path: Path) -> None:
    configure_logging("worker", tmp_path)
    for number in range(300):
        log.warning("%s is odd", number)
    (handler,) = (
        each for each in logging.getLogger("gateway").handlers if each.get_name() == str(log_path(tmp_path))
    )
    handler.close()
    assert written(tmp_path)[-1]["omitted"] == "%s is odd"


def test_a_log_is_rotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = NodeHandler(SharedFile(tmp_path / "log", max_bytes=1000, backups=2), LineLimiter())
    handler.setFormatter(JsonFormatter("worker"))
    for number in range(100):
        handler.handle(logging.makeLogRecord({"levelno": logging.INFO, "msg": "event", "number": number}))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["log", "log.1", "log.2"]
    assert json.loads((tmp_path / "log").read_text().splitlines()[-1])["number"] == 99


def test_lines_that_are_left_out_are_counted_too(tmp_path: Path) -> None:
    counts = configure_logging("gateway", tmp_path)
    assert configure_logging("gateway", tmp_path) is counts
    for number in range(BURST * 2):
        log.warning("call.failed", extra={"number": number})
    assert counts.totals() == {("warning", "call.failed"): BURST * 2}
