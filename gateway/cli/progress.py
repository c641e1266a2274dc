"""What happens, as it happens: live lines on a terminal, plain lines elsewhere, or JSON lines."""

from __future__ import annotations

import json
import re
import sys
import time
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from gateway.cli.tables import model_line

_AGAIN_SECONDS = 10.0
SETTLED = ("ready", "asleep", "failed")
"""The states that a model stays in until something new is asked for."""
_NUMBERS = re.compile(r"[0-9.]+")


class Reporter:
    """Says what happens, and how far each model is.

    A model on its way has a line at the bottom of a terminal, which changes in place. Elsewhere it has a
    new line when something changes, and every ten seconds while only its numbers do.
    """

    def __init__(self, console: Console, as_json: bool = False) -> None:
        self._console = console
        self._json = as_json
        self._live = Live(console=console, transient=True) if console.is_terminal and not as_json else None
        self._said: dict[str, tuple[str, float]] = {}

    def __enter__(self) -> Reporter:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, text: str) -> None:
        if self._json:
            self._line({"event": "said", "text": text})
        else:
            self._console.print(text, markup=False)

    def models(self, status: dict[str, Any]) -> None:
        """Say which models changed since the last time."""
        moving = []
        for model in status["models"]:
            line = model_line(model)
            settled = model["state"] in SETTLED
            if self._live is not None and not settled:
                moving.append(line)
                self._said.pop(model["name"], None)
            elif self._is_news(model["name"], line, settled):
                if self._json:
                    self._line({"event": "model.changed", **model})
                else:
                    self._console.print(line, markup=False)
        if self._live is not None:
            self._live.update(Text("\n".join(moving)))

    def _is_news(self, name: str, line: str, settled: bool) -> bool:
        now = time.monotonic()
        before, at = self._said.get(name, ("", 0.0))
        if line == before:
            return False
        counting = not settled and _NUMBERS.sub("", line) == _NUMBERS.sub("", before)
        if counting and now - at < _AGAIN_SECONDS:
            return False
        self._said[name] = (line, now)
        return True

    def _line(self, fields: dict[str, Any]) -> None:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        sys.stdout.write(json.dumps({"time": now, **fields}) + "\n")
        sys.stdout.flush()
