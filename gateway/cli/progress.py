"""What happens, as it happens: live lines on a terminal, plain lines elsewhere, or JSON lines."""

from __future__ import annotations

import re
import sys
import time
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn
from rich.text import Text

from gateway.cli.outcomes import SETTLED
from gateway.cli.stream import event_line
from gateway.cli.tables import model_line

_REPEAT_SECONDS = 10.0
_NUMBERS = re.compile(r"[0-9.]+")


class Reporter:
    """Prints messages, and how far each model is.

    On a terminal, a model that is not settled has a line at the bottom, which changes in place. Elsewhere it
    has a new line at each change, but at most every ten seconds while only numbers change.
    """

    def __init__(self, console: Console, as_json: bool = False) -> None:
        self._console = console
        self.is_json = as_json
        """Whether it prints lines of JSON."""
        self._live = Live(console=console, transient=True) if console.is_terminal and not as_json else None
        self._printed: dict[str, tuple[str, float]] = {}

    def __enter__(self) -> Reporter:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """Print a message."""
        if self.is_json:
            _print_json_line({"event": "said", "text": text})
        else:
            self._console.print(text, markup=False)

    def announce(self, event: str, fields: dict[str, Any], text: str) -> None:
        """Print what is ready, as an event with these fields or as a text of several lines."""
        if self.is_json:
            _print_json_line({"event": event, **fields})
        else:
            self._console.print(text, markup=False)

    def report_models(self, status: dict[str, Any]) -> None:
        """Print the models that changed since the last call."""
        live_lines = []
        for model in status["models"]:
            line = model_line(model)
            is_settled = model["state"] in SETTLED
            if self._live is not None and not is_settled:
                live_lines.append(line)
                self._printed.pop(model["name"], None)
            elif self._is_new(model["name"], line, is_settled):
                if self.is_json:
                    _print_json_line({"event": "model.changed", **model})
                else:
                    self._console.print(line, markup=False)
        if self._live is not None:
            self._live.update(Text("\n".join(live_lines)))

    def _is_new(self, name: str, line: str, is_settled: bool) -> bool:
        now = time.monotonic()
        last_line, printed_at = self._printed.get(name, ("", 0.0))
        if line == last_line:
            return False
        only_numbers = not is_settled and _NUMBERS.sub("", line) == _NUMBERS.sub("", last_line)
        if only_numbers and now - printed_at < _REPEAT_SECONDS:
            return False
        self._printed[name] = (line, now)
        return True


class PullProgress:
    """Shows the bytes pulled: a bar on a terminal, a line at each tenth elsewhere."""

    def __init__(self, console: Console, name: str) -> None:
        self._console = console
        self._name = name
        self._tenth = -1
        self._total = 0
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=console,
            transient=True,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> PullProgress:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def pulling(self, done: int, total: int) -> None:
        """Show that `done` of `total` bytes are pulled."""
        if self._console.is_terminal:
            if self._task is None:
                self._task = self._bar.add_task(self._name, total=total)
            self._bar.update(self._task, completed=done, total=total)
            return
        if total != self._total:
            # More layers are needed than were known at first.
            self._total, self._tenth = total, -1
        tenth = 10 * done // total if total else 10
        if tenth > self._tenth:
            self._tenth = tenth
            self._console.print(f"{self._name}: {done} of {total} bytes", markup=False)

    def unpacking(self) -> None:
        """Show that all layers are pulled."""
        if not self._console.is_terminal:
            self._console.print(f"{self._name}: unpacking", markup=False)


def _print_json_line(fields: dict[str, Any]) -> None:
    sys.stdout.write(event_line("info", fields))
    sys.stdout.flush()
