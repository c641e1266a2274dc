"""Lines that say the same again are counted, and told with their number."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from gateway.edge.files import EdgeFiles
from gateway.edge.process import EdgeProcess
from gateway.logs import events
from gateway.logs.events import JsonFormatter, NodeHandler, fields_of
from gateway.logs.files import SharedFile
from gateway.logs.limits import LineLimiter
from gateway.logs.repeats import Repeats
from tests.support.clock import Clock
from tests.support.waiting import wait


def record(
    event: str = "resolve.retried", level: int = logging.WARNING, **fields: object
) -> logging.LogRecord:
    return logging.makeLogRecord(
        {"name": "gateway", "levelno": level, "levelname": "WARNING", "msg": event, **fields}
    )


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def handler(tmp_path: Path) -> NodeHandler:
    handler = NodeHandler(SharedFile(tmp_path / "log"), LineLimiter())
    handler.setFormatter(JsonFormatter("gateway"))
    return handler


def written(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]


def is_new(repeats: Repeats, **fields: object) -> bool:
    line = record(**fields)  # type: ignore[arg-type]
    return repeats.is_new(line, fields_of(line))


def test_a_registry_that_fails_each_second_is_a_line_and_one_a_minute_with_a_count(clock: Clock) -> None:
    repeats = Repeats(60.0, clock)
    written = []
    for second in range(300):
        reason = f"https://r.io answered 503 (id {second:032x}, at 06:{second:02}), {second} times"
        written += ["new"] if is_new(repeats, kit="r.io/team/iris:v1", reason=reason) else []
        written += [str(count) for _, count in repeats.take_due()]
        clock.now += 1
    assert written == ["new", "60", "60", "60", "60"]
    assert [count for _, count in repeats.take_due(is_over=True)] == [59]


def test_what_is_said_of_something_else_or_in_other_words_is_another_line(clock: Clock) -> None:
    repeats = Repeats(60.0, clock)
    assert is_new(repeats, kit="iris:v1", reason="it is away")
    assert is_new(repeats, kit="iris:v2", reason="it is away")
    assert is_new(repeats, kit="iris:v1", reason="it refuses")
    assert is_new(repeats, kit="iris:v1", reason="it is away", level=logging.ERROR)
    assert is_new(repeats, kit="iris:v1", reason="it is away", event="other")
    assert not is_new(repeats, kit="iris:v1", reason="it is away")


def test_what_has_been_quiet_for_a_while_is_new_again(clock: Clock) -> None:
    repeats = Repeats(60.0, clock)
    assert is_new(repeats, kit="iris:v1")
    clock.now += 61
    assert repeats.take_due() == []
    assert is_new(repeats, kit="iris:v1")


def test_of_lines_that_are_all_different_no_more_is_kept_than_fits(clock: Clock) -> None:
    repeats = Repeats(60.0, clock)
    assert all(is_new(repeats, kit=f"kit{number}") for number in range(10_000))
    assert len(repeats._kinds) == 256


def test_a_log_has_the_first_of_equal_lines_and_their_number(
    tmp_path: Path, handler: NodeHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "REPEAT_SECONDS", 0.2)
    handler._repeats = Repeats(0.1)
    for _ in range(100):
        handler.handle(record(kit="iris:v1", reason="it is away"))
        handler.handle(record("version.deployed", logging.INFO))
    assert [line["event"] for line in written(tmp_path)].count("resolve.retried") == 1
    assert [line["event"] for line in written(tmp_path)].count("version.deployed") == 100, "no trouble"
    wait(lambda: any(line.get("repeats") == 99 for line in written(tmp_path)))
    handler.handle(record(kit="iris:v1", reason="it is away"))
    handler.close()
    assert [line.get("repeats") for line in written(tmp_path) if line["event"] == "resolve.retried"] in (
        [None, 99, 1],
        # So late that it is new again.
        [None, 99, None],
    )


def test_no_field_and_no_traceback_is_longer_than_a_person_reads(
    tmp_path: Path, handler: NodeHandler
) -> None:
    error = ValueError("begin " + "\x1b[2J" * 10**6 + " end")
    exc_info = (type(error), error, None)
    handler.handle(record(reason="x" * 10**6 + " end", exc_info=exc_info))
    (text,) = (tmp_path / "log").read_text().splitlines()
    assert len(text) < 300_000
    assert text.isprintable()
    line = json.loads(text)
    assert len(line["reason"]) < 8_100
    assert line["reason"].endswith(" end")
    assert (len(line["error"]) < 32_100, line["error"].strip().endswith(" end")) == (True, True)


def test_what_haproxy_writes_is_rotated_while_it_writes(tmp_path: Path) -> None:
    files = EdgeFiles(tmp_path)
    process = EdgeProcess.__new__(EdgeProcess)
    process._files = files
    with files.log.open("ab", buffering=0) as log_file:
        for number in range(30):
            log_file.write(b"%07d\n" % number * 10_000)
            process._trim_log()
        assert files.log.stat().st_size + (tmp_path / "haproxy.log.1").stat().st_size < 3 * 1024 * 1024
        log_file.write(b"\x1b[31mthe last\n")
    assert process._last_words().endswith("[31mthe last")
    assert process._last_words().isprintable()
