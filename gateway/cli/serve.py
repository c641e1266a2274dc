"""`kitserve serve`: Kitserve in the foreground, until a signal ends it."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import gateway
from gateway.cli.options import WATCH_SECONDS, ConfigFile, Home, Output, out
from gateway.cli.progress import Reporter
from gateway.cli.stream import one_stream
from gateway.config.config import load_config
from gateway.errors import ControlError, EdgeError
from gateway.logs.events import configure_logging

if TYPE_CHECKING:
    from gateway.cli.lifecycle import Kitserve

_FORMAT = Output.TEXT if sys.stdout.isatty() else Output.JSON
"""Text for people at a terminal; for programs, what can be searched."""


def serve(
    file: ConfigFile,
    home: Home,
    address: Annotated[
        str | None, typer.Option(help="Join the Ray cluster at this address.", show_default="start Ray here")
    ] = None,
    log_format: Annotated[Output, typer.Option(help="Format of the messages.")] = _FORMAT,
) -> None:
    """Serve the models of FILE until Ctrl-C."""
    # Imported here, because it takes as long to load as all other commands together.
    from gateway.cli.lifecycle import Stopped, catch_signals, running

    config = load_config(file)
    reporter = Reporter(out, as_json=log_format is Output.JSON)
    home = home.absolute()
    with _logging(home, as_json=log_format is Output.JSON):
        reporter.say(
            f"Kitserve {gateway.__version__}: {len(config.models)} model(s) from {file}, home {home}"
        )
        catch_signals()
        try:
            with running(config, home, address, reporter.say) as kitserve, reporter:
                raise _report_until_edge_is_lost(kitserve, reporter)
        except Stopped:
            reporter.say("stopped")


@contextlib.contextmanager
def _logging(home: Path, as_json: bool) -> Iterator[None]:
    """Log what happens in this process too; as JSON, have all that is logged on one stream."""
    # A home that cannot be used is refused at the start, with advice.
    with contextlib.suppress(OSError):
        configure_logging("serve", home)
    if as_json:
        with one_stream(home):
            yield
        return
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    logging.getLogger(gateway.__name__).addHandler(handler)
    yield


def _report_until_edge_is_lost(kitserve: Kitserve, reporter: Reporter) -> EdgeError:
    """Report what changes; returns why the edge is gone."""
    while kitserve.edge_error is None:
        # Serve starts a gateway that is gone again, and calls do not need it.
        with contextlib.suppress(ControlError):
            reporter.report_models(kitserve.client.status())
        kitserve.ended.wait(WATCH_SECONDS)
    return kitserve.edge_error
