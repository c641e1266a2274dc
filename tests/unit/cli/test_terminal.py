from __future__ import annotations

import io
import logging
import re
import sys
import threading

import pytest
from rich.live import Live
from rich.text import Text

from gateway.cli import tables
from gateway.cli.progress import Reporter
from gateway.cli.stream import JsonStream
from gateway.cli.terminal import Terminal, TerminalFormatter, terminal

HOSTILE = "Op\x1b]0;owned\x07\x1b[2J\x9b31m\u202e"
# What Rich itself writes: colours, the cursor's way up, lines that are emptied, the cursor that is hidden.
OWN = re.compile(r"\x1b\[(?:[0-9;]*m|[0-9]*A|[0-9]?K|\?25[lh])|\r")


def shown(console: Terminal) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def model(message: str) -> dict[str, object]:
    version = {
        "tag": "v1", "digest": "sha256:" + "1" * 64, "weight": 100, "role": "stable", "replicas": 1,
        "runtime": message, "note": message, "generation": None,
    }  # fmt: skip
    return {
        "name": "iris", "state": "failed", "message": message, "versions": [version], "rollout": None,
        "retry": None,
    }  # fmt: skip


@pytest.mark.parametrize("is_terminal", [True, False])
def test_no_text_of_a_kit_controls_the_terminal(is_terminal: bool) -> None:
    console = terminal(file=io.StringIO(), force_terminal=is_terminal, width=200)
    console.print(HOSTILE, style="red", markup=False)
    console.print(tables.models_table([model(HOSTILE)]))
    console.print(tables.message_line(model(HOSTILE)), markup=False)
    with Reporter(console) as reporter:
        reporter.say(HOSTILE)
        reporter.report_models({"models": [{**model(HOSTILE), "state": "loading"}]})
        reporter.report_models({"models": [model(HOSTILE)]})
    with Live(Text(HOSTILE), console=console, auto_refresh=False) as live:
        live.update(Text(HOSTILE + "2"), refresh=True)
    written = OWN.sub("", shown(console))
    assert written.count("owned") >= 6
    assert all(line.isprintable() for line in written.split("\n")), repr(written)


def test_colours_and_lines_of_our_own_stay() -> None:
    console = terminal(file=io.StringIO(), force_terminal=True, color_system="standard", width=80)
    console.print("two\nlines", style="red", markup=False)
    assert shown(console) == "\x1b[31mtwo\x1b[0m\n\x1b[31mlines\x1b[0m\n"


def test_a_traceback_in_the_terminal_is_printable() -> None:
    try:
        int(HOSTILE)
    except ValueError:
        record = logging.LogRecord(
            "gateway", logging.ERROR, "", 1, "it failed: %s", (HOSTILE,), sys.exc_info()
        )
    text = TerminalFormatter().format(record)
    assert text.count("owned") == 2
    assert all(line.isprintable() for line in text.split("\n"))


def test_a_line_that_another_process_wrote_into_the_log_controls_no_terminal() -> None:
    target = io.StringIO()
    stream = JsonStream(target, threading.Lock(), "info")
    stream.write_lines('{"time": "now", "event": "' + HOSTILE + '"}\n{"time": "then"}\n')
    stream.write('{"time": "now", "event": "' + HOSTILE + '"}\n')
    lines = target.getvalue().split("\n")
    assert [line.isprintable() for line in lines] == [True] * 4
    assert sum("owned" in line for line in lines) == 2
