"""The terminal that commands print to: what is within their text controls nothing of it."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from gateway.foreign_text import printable_lines


class Terminal(Console):
    """A console that shows what cannot be printed as a sign of its own; its own colours and cursor stay."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render what is to be printed, with nothing in its text that controls a terminal."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(printable_lines(segment.text), segment.style)


class TerminalFormatter(logging.Formatter):
    """Formats a record for a terminal: an exception's text may be of a kit."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's message, and its traceback, as printable lines."""
        return printable_lines(super().format(record))


def terminal(**options: Any) -> Terminal:
    """Return a terminal that colours nothing by itself, and cuts nothing off."""
    return Terminal(highlight=False, soft_wrap=True, **options)
