"""`kitserve`: its commands put together, and the exit code of each error."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

import gateway
from gateway.cli.bash_words import words_of_bash
from gateway.cli.lazy import LazyCommand, LazyGroup
from gateway.cli.options import FAILED, MISUSED, err, out
from gateway.errors import ConfigError, InvalidReference, KitserveError

# By panel, in the order of the help: the name of each, where it is, and the first line of its own help.
_COMMANDS = {
    "Serve": (
        ("run", "run:run", "Pull a kit and serve it until Ctrl-C, with no config."),
        ("serve", "serve:serve", "Serve the models of FILE until Ctrl-C."),
    ),
    "Configs": (
        ("validate", "validate:validate", "Check config files, and name every fault with its line."),
        ("plan", "plan:app", "Show what applying FILE would change, and change nothing."),
        ("lock", "lock:lock", "Write the digests of FILE's kits into a lock beside it."),
        ("apply", "apply:apply", "Apply FILE to a running Kitserve; `-` is standard input."),
        ("schema", "validate:schema", "Print the JSON Schema of the config file, for editors."),
    ),
    "What runs": (
        ("status", "status:status", "Show the models of a running Kitserve, and their versions."),
        ("restart", "restart:restart", "Replace the workers of a model that runs, without a lost call."),
        ("logs", "logs:logs", "Show the log of a Kitserve on this machine."),
        ("doctor", "doctor:doctor", "Say what GPUs are here, and what keeps models off them."),
        ("rollout", "rollout:app", "Show and control the rollout of a model."),
    ),
    "Kits": (
        ("inspect", "kits:inspect", "Show what a kit is, and whether it can be served."),
        ("pull", "kits:pull", "Pull, verify and unpack a kit, so that it can be served offline."),
        ("replay", "replay:replay", "Send recorded calls to a kit, and judge it as a rollout would."),
        ("cache", "cache:app", "List, prune and verify the kits on this machine."),
    ),
    "Access": (
        ("token", "token:token", "Print the token of the admin API, or make another."),
        ("key", "key:app", "Make keys for those who call models."),
    ),
}


class _Commands(LazyGroup):
    lazy_commands = tuple(
        LazyCommand(name, f"gateway.cli.{location}", help=line, panel=panel)
        for panel, commands in _COMMANDS.items()
        for name, location, line in commands
    )


app = typer.Typer(
    cls=_Commands,
    help="Serve ModelKits by reference.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
