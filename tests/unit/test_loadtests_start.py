"""How starts are measured and shown."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loadtests import start, start_plot
from loadtests.contenders import KITSERVE, MLSERVER, NotReady
from loadtests.start import Start, curves, names, table, wait_for_answers

STARTS = [
    Start(KITSERVE, 20, 4.0, 12.0, 1500.0, 10.0, 30),
    Start(KITSERVE, 1, 3.0, 3.5, 500.0, 4.0, 12),
    Start(MLSERVER, 1, 2.0, 2.0, 130.0, 0.2, 1),
    Start(KITSERVE, 1, 4.0, 4.5, 520.0, 6.0, 12),
    Start(KITSERVE, 1, 9.0, 9.5, 530.0, 5.0, 12),
]


def test_the_table_has_minimum_and_median_by_server_and_number_of_models() -> None:
    lines = table(STARTS)
    assert [line.split(" | ")[:2] for line in lines[2:]] == [
        ["| Kitserve", "1"],
        ["| Kitserve", "20"],
        ["| MLServer", "1"],
    ]
    assert lines[2] == "| Kitserve | 1 | 3.00 / 4.00 | 3.50 / 4.50 | 500 / 520 | 4.00 / 5.00 | 12.0 / 12.0 |"


def test_the_curves_are_medians_and_can_be_drawn(tmp_path: Path) -> None:
    drawn = curves(STARTS)
    assert drawn[KITSERVE].models == (1.0, 20.0)
    assert drawn[KITSERVE].all_seconds == (4.5, 12.0)
    assert drawn[KITSERVE].pss_mib == (520.0, 1500.0)
    file = tmp_path / "start.svg"
    start_plot.draw(drawn, file)
    assert "all answer" in file.read_text()


class Models:
    """A server of which each model answers from its third call on."""

    name = "it"

    def __init__(self) -> None:
        self.calls: dict[str, int] = {}
        self.ended_with = ""
        calls = self.calls

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                calls[self.path] = calls.get(self.path, 0) + 1
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(200 if calls[self.path] > 2 else 503)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def ended(self) -> str:
        return self.ended_with


@pytest.fixture
def models() -> Iterator[Models]:
    models = Models()
    yield models
    models.server.shutdown()
    models.server.server_close()


def test_each_model_is_called_until_it_answers(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "_ROUND_SECONDS", 0.0)
    server: Any = models
    first, last = wait_for_answers(server, names(10), time.monotonic())
    assert models.calls == {f"/v2/models/m{number}/infer": 3 for number in range(10)}
    assert 0 < first <= last


def test_a_server_that_ends_is_not_waited_for(models: Models) -> None:
    server: Any = models
    models.ended_with = "it ended with 1"
    with pytest.raises(NotReady, match="it ended with 1"):
        wait_for_answers(server, names(1), time.monotonic())
