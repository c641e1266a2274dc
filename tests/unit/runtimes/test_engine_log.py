"""The end of an engine's log, and the lines of it that say why the engine failed."""

from __future__ import annotations

import pytest

from runtimes.engines.log import EngineLog


def log(text: str) -> EngineLog:
    engine_log = EngineLog()
    for start in range(0, len(text.encode()), 7):
        engine_log.write(text.encode()[start : start + 7])
    return engine_log


@pytest.mark.parametrize(
    ("text", "ending"),
    [
        ("", ""),
        ("\n\n", ""),
        ("one\ntwo", ": one | two"),
        ("loading\nerror: no such tensor\nbye", ": error: no such tensor"),
        ("Error: a\nError: a\nError: a\n", ": Error: a"),
        ("x.cpp:1: GGML_ASSERT(n > 0) failed\nsome frames", ": x.cpp:1: GGML_ASSERT(n > 0) failed"),
        ("ValueError: out of range", ": ValueError: out of range"),
        ("\x1b[31mred\x1b[0m\x07 alert\tß", ": red alert\tß"),
        ("1\n2\n3\n4\n5\n6\n7\n8", ": 3 | 4 | 5 | 6 | 7 | 8"),
    ],
)
def test_the_lines_that_tell_of_trouble_are_shown(text: str, ending: str) -> None:
    assert log(text).ending() == ending


def test_what_is_shown_is_short() -> None:
    ending = log("error " + "x" * 10_000).ending()
    assert len(ending) < 1_300
    assert ending.startswith(": … x")


def test_only_the_end_is_kept() -> None:
    engine_log = EngineLog()
    for _ in range(100):
        engine_log.write(b"a" * 10_000)
    engine_log.write(b"\nlast")
    assert engine_log.size == 1_000_005
    assert len(engine_log.text) < 70_000
    assert engine_log.text.endswith("\nlast")
