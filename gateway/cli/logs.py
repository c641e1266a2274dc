"""`kitserve logs`: what a Kitserve on this machine has logged, and what it logs."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.admin_address import default_home, socket_path
from gateway.cli.completion import model_names
from gateway.cli.log_lines import LEVELS, Wanted, read_line, shown_line
from gateway.cli.options import (
    ADMIN_VARIABLE,
    Output,
    OutputFormat,
    check_model_name,
    read_duration,
)
from gateway.control.admin.socket_file import SOCKET_FILE
from gateway.errors import StoreError
from gateway.foreign_text import printable_lines
from gateway.logs.events import log_path
from gateway.logs.follow import Follower
from gateway.logs.history import History

_PAUSE_SECONDS = 0.2


def _home() -> Path:
    """Return the home where none is named: that of the socket that the commands ask, else the default one."""
    admin = os.environ.get(ADMIN_VARIABLE)
    if not admin:
        return default_home()
    path = socket_path(admin)
    if path is None or path.name != SOCKET_FILE:
        raise typer.BadParameter(
            f"the log is in the home of the Kitserve at ${ADMIN_VARIABLE} ({admin}), on its machine; "
            "run this there, with --home"
        )
    return path.parent


def _since(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        try:
            return datetime.now(UTC) - timedelta(seconds=read_duration(text))
        except (typer.BadParameter, OverflowError):
            raise typer.BadParameter(
                f"{text!r} is neither a time, such as 2026-01-31T12:00, nor how long ago, such as 10m"
            ) from None
    return moment if moment.tzinfo is not None else moment.astimezone()


def _level(text: str) -> str:
    if text not in LEVELS:
        raise typer.BadParameter(f"{text!r} is none of {', '.join(LEVELS)}")
    return text


def logs(
    home: Annotated[
        Path,
        typer.Option(
            help="Directory for kits, state and logs.",
            envvar="KITSERVE_HOME",
            default_factory=_home,
            show_default="that of $KITSERVE_ADMIN, else ~/.local/share/kitserve",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Argument(
            help="Only what is about this model.",
            metavar="MODEL",
            show_default="all",
            callback=check_model_name,
            autocompletion=model_names,
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    since: Annotated[
        datetime | None,
        typer.Option(
            help="Not what is older: how long ago, or a time.", metavar="DURATION|TIME", parser=_since
        ),
    ] = None,
    level: Annotated[
        str, typer.Option(help="Not what is less.", metavar="|".join(LEVELS), callback=_level)
    ] = "info",
    tail: Annotated[
        int | None, typer.Option(min=0, help="So many of the last lines.", show_default="all")
    ] = None,
    output: OutputFormat = Output.TEXT,
) -> None:
    """Show the log of a Kitserve on this machine."""
    path = log_path(home)
    wanted = Wanted(model or "", level, since)
    try:
        history = History(path)
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}; be Kitserve's user, or root") from error
    if history.rest is None and not follow:
        raise StoreError(
            f"{path}: no such file; no Kitserve has run from {home}: name its home with --home, or set "
            "$KITSERVE_HOME"
        )
    printer = _Printer(wanted, output)
    try:
        printer.print_all(history.lines(), tail)
        if follow:
            _follow(path, history, printer)
        elif wanted.model and not printer.has_lines:
            typer.echo(f"{path} has no such line about {wanted.model}", err=True)
    except BrokenPipeError:
        # Who read it has seen enough; nothing is left to be flushed at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        pass
    finally:
        history.close()


def _follow(path: Path, history: History, printer: _Printer) -> None:
    """Print what is logged from now on, until Ctrl-C, or nobody reads it."""
    broken = threading.Event()

    def write(lines: bytes) -> None:
        try:
            printer.print_all(lines.splitlines(keepends=True))
        except BrokenPipeError:
            broken.set()

    follower = Follower(path, write, history.rest)
    try:
        while not broken.is_set():
            time.sleep(_PAUSE_SECONDS)
    finally:
        follower.stop()
    raise BrokenPipeError


class _Printer:
    """Prints the lines that are wanted, as printable text."""

    def __init__(self, wanted: Wanted, output: Output) -> None:
        self._wanted = wanted
        self._output = output
        self.has_lines = False

    def print_all(self, lines: Iterator[bytes] | list[bytes], tail: int | None = None) -> None:
        """Print lines, or so many of the last ones."""
        texts = self._texts(lines)
        for text in texts if tail is None else deque(texts, tail):
            sys.stdout.write(text)
        sys.stdout.flush()

    def _texts(self, lines: Iterator[bytes] | list[bytes]) -> Iterator[str]:
        for line in lines:
            fields = read_line(line)
            if self._wanted.has(fields):
                self.has_lines = True
                text = json.dumps(fields) if self._output is Output.JSON else shown_line(fields)
                yield printable_lines(text) + "\n"
