"""`kitserve serve`: Kitserve in the foreground, until a signal ends it."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

import gateway
from gateway.cli import systemd
from gateway.cli.admin_client import AdminClient
from gateway.cli.config_files import read_file
from gateway.cli.containment import containment_warnings
from gateway.cli.options import WATCH_SECONDS, ConfigFile, Home, Locked, Output, out, read_output
from gateway.cli.outcomes import SETTLED
from gateway.cli.progress import Reporter
from gateway.cli.reload import ConfigSource, Reload
from gateway.cli.signals import Stopped, catch_hangup, catch_signals
from gateway.cli.stream import one_stream
from gateway.cli.terminal import TerminalFormatter
from gateway.config.config import GatewayConfig
from gateway.config.lock import lock_path
from gateway.errors import ControlError, EdgeError, StoreError
from gateway.home import keep_private, make_private
from gateway.logs.events import configure_logging
from gateway.wording import counted
from runtimes import select as runtimes

if TYPE_CHECKING:
    from gateway.cli.lifecycle import Kitserve

_SETTLED_SECONDS = 2.0
"""How often the gateway is asked for its status where no model is on its way."""
_FORMAT = Output.TEXT if sys.stdout.isatty() else Output.JSON
"""Text for people at a terminal; for programs, what can be searched."""
Look = Callable[[AdminClient, dict[str, Any] | None], None]
"""What else is done while Kitserve runs."""
LogFormat = Annotated[
    Output, typer.Option(help="Format of the messages.", parser=read_output, metavar="text|json")
]


def serve(
    file: ConfigFile,
    home: Home,
    address: Annotated[
        str | None, typer.Option(help="Join the Ray cluster at this address.", show_default="start Ray here")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Apply FILE whenever it, or with --locked its lock, changes.")
    ] = False,
    log_format: LogFormat = _FORMAT,
    locked: Locked = False,
) -> None:
    """Serve the models of FILE until Ctrl-C."""
    home = home.absolute()

    def work(reporter: Reporter) -> None:
        load = partial(read_file, is_locked=locked, runtimes=runtimes.names())
        reload = Reload(ConfigSource(file, load, lock_path(file) if locked else None), watch)
        catch_hangup(reload.ask)
        config = load(file)
        title = (
            f"Kitserve {gateway.__version__}: {counted(len(config.models), 'model')} from {file}, home {home}"
        )

        def look(client: AdminClient, _status: dict[str, Any] | None) -> None:
            reload.check(client, reporter.say)

        serve_config(config, title, home, address, reporter, look)

    in_foreground(log_format, work)


def in_foreground(log_format: Output, work: Callable[[Reporter], None]) -> NoReturn:
    """Do `work` until it fails, or until a signal ends it, which is no failure."""
    catch_signals()
    keep_private()
    reporter = Reporter(out, log_format is Output.JSON)
    try:
        work(reporter)
    except Stopped:
        reporter.say("stopped")
    # The disk may be full that it is written to.
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    # A thread that starts Ray may still run: nothing waits for it, as its processes are ended.
    os._exit(0)


def serve_config(
    config: GatewayConfig,
    title: str,
    home: Path,
    address: str | None,
    reporter: Reporter,
    look: Look,
) -> None:
    """Serve the models of a config until a signal comes.

    Args:
        config: the config.
        title: what is said first.
        home: the directory for kits, state and logs, an absolute path.
        address: the Ray cluster to join; None to start Ray here.
        reporter: tells a person.
        look: called every half second, with the status of the models where the gateway tells it; what it
            raises ends this.
    """
    # Imported here, because it takes as long to load as all other commands together.
    from gateway.cli.lifecycle import running

    with _logging(home, reporter):
        try:
            reporter.say(title)
            for warning in containment_warnings():
                reporter.say(f"warning: {warning}")
            with running(config, home, address, reporter.say) as kitserve, reporter, systemd.running():
                raise _report_until_edge_is_lost(kitserve, reporter, look)
        except Stopped:
            reporter.say("stopped")


@contextlib.contextmanager
def _logging(home: Path, reporter: Reporter) -> Iterator[None]:
    """Log what happens in this process too; as JSON, have all that is logged on one stream."""
    # A home that cannot be used is refused at the start, with advice.
    with contextlib.suppress(OSError, StoreError):
        if change := make_private(home):
            reporter.say(change)
        configure_logging("serve", home)
    if reporter.is_json:
        with one_stream(home):
            yield
        return
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    handler.setFormatter(TerminalFormatter())
    logging.getLogger(gateway.__name__).addHandler(handler)
    yield


def _report_until_edge_is_lost(kitserve: Kitserve, reporter: Reporter, look: Look) -> EdgeError:
    """Report what changes, look after Ray and at what listens; returns why the edge is gone.

    Raises:
        ControlError: when Ray is gone for good.
    """
    asked = float("-inf")
    is_settled = False
    while kitserve.edge_error is None:
        status = None
        if not is_settled or time.monotonic() - asked >= _SETTLED_SECONDS:
            asked = time.monotonic()
            # Serve starts a gateway that is gone again, and calls do not need it.
            with contextlib.suppress(ControlError):
                status = kitserve.client.status()
        if status is not None:
            reporter.report_models(status)
            is_settled = all(model["state"] in SETTLED for model in status["models"])
            if kitserve.addresses is not None:
                # What cannot be followed now can in the next round.
                with contextlib.suppress(ControlError):
                    kitserve.addresses.follow(kitserve.client, status)
        if kitserve.supervision is not None:
            kitserve.supervision.check()
        if kitserve.listening is not None:
            kitserve.listening.check()
        look(kitserve.client, status)
        kitserve.ended.wait(WATCH_SECONDS)
    return kitserve.edge_error
