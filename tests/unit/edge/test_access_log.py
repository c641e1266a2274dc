from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.edge.access_log import AccessLog
from gateway.logs.limits import LineLimiter
from tests.support.waiting import wait


def access(status: int, model: str = "iris", number: int = 0, level: str = "warning") -> bytes:
    line = {
        "level": level,
        "time": "2026-01-01T00:00:00+0000",
        "event": "access",
        "status": status,
        "model": model,
        "n": number,
    }
    return json.dumps(line, separators=(",", ":")).encode() + b"\n"


class Sink:
    """Takes what is handed on."""

    def __init__(self) -> None:
        self.text = b""

    def write(self, lines: bytes) -> None:
        assert lines.endswith(b"\n")
        self.text += lines

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]

    def of(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines() if line["event"] == event]


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def log(sink: Sink) -> Iterator[AccessLog]:
    log = AccessLog(sink.write, LineLimiter(20, 0.001))
    yield log
    log.stop()


def test_where_all_calls_are_logged_every_line_is_handed_on_as_it_is(sink: Sink) -> None:
    log = AccessLog(sink.write)
    text = b"".join(access(503, number=number, level="info") for number in range(2000))
    for start in range(0, len(text), 997):
        os.write(log.file, text[start : start + 997])
    log.stop()
    log.stop()
    assert sink.text == text


def test_an_outage_of_one_model_is_some_lines_and_a_count(sink: Sink, log: AccessLog) -> None:
    for number in range(9000):
        os.write(log.file, access(503, number=number))
        if number % 1000 == 0:
            os.write(log.file, access(502, number=number) + access(503, 'an"other', number))
    log.stop()
    shown = Counter((line["status"], line["model"]) for line in sink.of("access"))
    assert shown == {(503, "iris"): 20, (502, "iris"): 9, (503, 'an"other'): 9}
    omitted = sink.of("access.omitted")
    assert sum(line["lines"] for line in omitted) == 9000 - 20
    assert omitted[0]["calls"] == [{"status": 503, "model": "iris", "lines": omitted[0]["lines"]}]
    assert (omitted[0]["level"], omitted[0]["process"]) == ("warning", "edge")


def test_what_was_left_out_is_told_while_no_more_lines_come(
    sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.edge.access_log._TELL_SECONDS", 0.1)
    log = AccessLog(sink.write)
    for _ in range(300):
        os.write(log.file, access(503))
    wait(lambda: sum(line["lines"] for line in sink.of("access.omitted")) >= 240)
    log.stop()
    assert len(sink.of("access")) + sum(line["lines"] for line in sink.of("access.omitted")) == 300


def test_models_that_callers_invent_are_told_apart_only_so_far(sink: Sink, log: AccessLog) -> None:
    for number in range(1000):
        os.write(log.file, access(502, f"foreign{number}"))
    log.stop()
    assert len(sink.of("access")) == 256 + 20
    (calls,) = (line["calls"] for line in sink.of("access.omitted"))
    assert calls == [{"model": "others", "lines": 1000 - 256 - 20}]


def test_what_haproxy_says_of_itself_is_an_event(sink: Sink, log: AccessLog) -> None:
    os.write(log.file, b"Proxy data reached process FD limit (maxsock=6).\n\xff\n")
    log.stop()
    assert [line["text"] for line in sink.of("haproxy")] == [
        "Proxy data reached process FD limit (maxsock=6).",
        "\N{REPLACEMENT CHARACTER}",
    ]


def test_that_the_proxies_of_a_process_that_ends_stop_is_no_warning(sink: Sink, log: AccessLog) -> None:
    os.write(log.file, b"Proxy data stopped (cumulated conns: FE: 2, BE: 0).\n" + access(503))
    log.stop()
    assert sink.of("haproxy") == []
    assert len(sink.of("access")) == 1


def test_an_output_that_is_gone_stops_nobody() -> None:
    def gone(_: bytes) -> None:
        raise BrokenPipeError

    log = AccessLog(gone)
    os.write(log.file, access(503))
    log.stop()
