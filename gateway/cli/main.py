"""`kitserve`: its commands put together, and the exit code of each error."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

import gateway
from gateway.cli import cache, key, rollout
from gateway.cli.completion import words_of_bash
from gateway.cli.doctor import doctor
from gateway.cli.kits import inspect, pull
from gateway.cli.lock import lock
from gateway.cli.logs import logs
from gateway.cli.models import apply, status
from gateway.cli.options import FAILED, MISUSED, err, out
from gateway.cli.plan import PlanCommand, plan
from gateway.cli.replay import replay
from gateway.cli.restart import restart
from gateway.cli.run import run
from gateway.cli.serve import serve
from gateway.cli.token import token
from gateway.cli.validate import schema, validate
from gateway.errors import ConfigError, InvalidReference, KitserveError

app = typer.Typer(
    help="Serve ModelKits by reference.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_SERVE, _CONFIG, _RUNNING, _KITS, _ACCESS = "Serve", "Configs", "What runs", "Kits", "Access"

# `--help` shows the commands in this order; within a panel, Typer puts those with commands of their own last.
for panel, commands in {
    _SERVE: (run, serve),
    _CONFIG: (validate, plan, lock, apply, schema),
    _RUNNING: (status, restart, logs, doctor),
    _KITS: (inspect, pull, replay),
    _ACCESS: (token,),
}.items():
    for command in commands:
        app.command(cls=PlanCommand if command is plan else None, rich_help_panel=panel)(command)
app.add_typer(rollout.app, name="rollout", rich_help_panel=_RUNNING)
app.add_typer(cache.app, name="cache", rich_help_panel=_KITS)
app.add_typer(key.app, name="key", rich_help_panel=_ACCESS)


def main() -> None:
    """Run the command line; errors raised on purpose become one message and an exit code."""
    try:
        with words_of_bash(os.environ):
            app(prog_name="kitserve")
    except (ConfigError, InvalidReference) as error:
        err.print(f"kitserve: {error}", style="red", markup=False)
        sys.exit(MISUSED)
    except KitserveError as error:
        err.print(f"kitserve: {error}", style="red", markup=False)
        sys.exit(FAILED)


def _print_version(is_requested: bool) -> None:
    if is_requested:
        out.print(f"kitserve {gateway.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    pass
