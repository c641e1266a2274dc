"""Lines of the log for people: those that are wanted, in a form that can be read."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from gateway.cli.log_lines import Wanted, read_line, shown_line

DIGEST = "sha256:" + "a" * 64
READY: dict[str, Any] = {
    "time": "2026-11-29T09:54:53.120+00:00",
    "level": "info",
    "process": "worker-7",
    "event": "worker.ready",
    "model": "iris",
    "version": "v1",
    "digest": DIGEST,
    "app": "iris.v1.aaaaaaaaaaaa.6b589a48.5",
    "port": 45989,
}


def test_a_line_says_when_what_and_of_whom() -> None:
    assert shown_line(READY, UTC) == (
        "2026-11-29 09:54:53 info    worker.ready iris v1: digest=sha256:aaaaaaaaaaaa port=45989 (worker-7)"
    )
    call = {
        **READY,
        "level": "error",
        "event": "call.failed",
        "request_id": "r-1",
        "error": "Traceback\n  x\n",
    }
    assert shown_line(call, UTC).splitlines() == [
        "2026-11-29 09:54:53 error   call.failed iris v1: request r-1 digest=sha256:aaaaaaaaaaaa port=45989 "
        "(worker-7)",
        "    Traceback",
        "      x",
    ]


@pytest.mark.parametrize(
    "line", [b"no JSON\n", b"[1]\n", b"\xff\n", b"{}\n", b'{"time":3,"level":[]}\n', b"\n"]
)
def test_what_is_no_line_of_the_log_is_shown_all_the_same(line: bytes) -> None:
    fields = read_line(line)
    assert shown_line(fields, UTC).startswith("- ")
    assert Wanted(level="error").has(fields)
    assert not Wanted("iris").has(fields)


@pytest.mark.parametrize(
    ("fields", "is_about"),
    [
        ({"model": "iris"}, True),
        ({"model": "iris2"}, False),
        ({"app": "iris.v1.aaaaaaaaaaaa.6b589a48.5"}, True),
        ({"app": "iris.v1", "model": "wine"}, False),
        ({"app": "irises.v1.aaaaaaaaaaaa.6b589a48.5"}, False),
        ({"routes": {"iris": {}}}, True),
        ({"kits_before": {}, "kits_after": {"iris": []}}, True),
        ({"routes": "iris"}, False),
    ],
)
def test_which_lines_are_about_a_model(fields: dict[str, Any], is_about: bool) -> None:
    assert Wanted("iris").has({"event": "x", **fields}) is is_about


def test_lines_are_chosen_by_level_and_time() -> None:
    def has(least: str, since: datetime | None = None, level: str = "info") -> bool:
        return Wanted(level=least, since=since).has({**READY, "level": level})

    assert has("info")
    assert not has("warning")
    assert has("warning", level="error")
    assert has("warning", level="unheard-of")
    assert not has("info", datetime(2026, 11, 29, 10, tzinfo=UTC))
    assert has("info", datetime(2026, 11, 29, 9, 54, 53, tzinfo=UTC))
    assert json.loads(json.dumps(read_line(json.dumps(READY).encode()))) == READY
