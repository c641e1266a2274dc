"""What commands share: options, arguments, exit codes, and where they print."""

from __future__ import annotations

import json
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from gateway.cli.admin_client import admin_url
from gateway.config.kits import read_seconds
from gateway.config.models import MODEL_NAME
from gateway.home import make_private

FAILED = 1
"""The exit code of a command that could not do its work."""
MISUSED = 2
"""The exit code for a wrong command, config or reference."""
WATCH_SECONDS = 0.5
"""The time between two looks at the status of a running Kitserve."""
ADMIN = "127.0.0.1:8081"
"""The admin address where none is given."""

# A pipe has no width: nothing is cut off for it.
_WIDTH = None if sys.stdout.isatty() else 240
out = Console(highlight=False, soft_wrap=True, width=_WIDTH)
err = Console(stderr=True, highlight=False, soft_wrap=True)


class Output(StrEnum):
    """The format of a command's output."""

    TEXT = "text"
    JSON = "json"


def read_output(text: str) -> Output:
    """Read the format of an output."""
    try:
        return Output(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither text nor json") from None


def read_duration(text: str) -> float:
    """Read a duration, in seconds, as the config has it."""
    try:
        seconds = read_seconds(text if text[-1:].isalpha() else f"{text}s")
    except ValueError:
        seconds = None
    if not isinstance(seconds, float) or seconds <= 0:
        raise typer.BadParameter(f"{text!r} is not a time to wait, such as 90s, 10m or 2h")
    return seconds


def timeout_option(default: str) -> Any:
    """Return the option for how long a command waits; `default` says in the help what holds without it."""
    return typer.Option(
        help="How long to wait at most.", metavar="DURATION", parser=read_duration, show_default=default
    )


def check_admin_address(address: str | None) -> str | None:
    """Refuse an admin address that cannot be one."""
    try:
        if address is not None:
            admin_url(address)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return address


def check_model_name(name: str | None) -> str | None:
    """Refuse a name that no model can have."""
    if name is not None and not MODEL_NAME.fullmatch(name):
        raise typer.BadParameter(f"{name!r} cannot be the name of a model")
    return name


def _default_home() -> Path:
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(os.environ.get("KITSERVE_HOME") or Path(data) / "kitserve")


Home = Annotated[
    Path,
    typer.Option(
        help="Directory for kits, state and logs.",
        envvar="KITSERVE_HOME",
        default_factory=_default_home,
        show_default="~/.local/share/kitserve",
    ),
]
ConfigFile = Annotated[Path, typer.Argument(help="The config file (YAML or JSON).", metavar="FILE")]
Admin = Annotated[
    str,
    typer.Option(
        help="Admin address of the running Kitserve.", metavar="HOST:PORT|URL", callback=check_admin_address
    ),
]
ModelName = Annotated[
    str, typer.Argument(help="The model's name.", metavar="NAME", callback=check_model_name)
]
OutputFormat = Annotated[
    Output,
    typer.Option(
        "--output",
        "-o",
        help="Format of the output.",
        parser=read_output,
        metavar="text|json",
    ),
]


def private_home(home: Path) -> Path:
    """Make the home, its user's alone; say so where it was not.

    Raises:
        StoreError: when it cannot be used.
    """
    if change := make_private(home):
        err.print(change, markup=False)
    return home


def print_json(document: Any) -> None:
    """Print a document for programs."""
    sys.stdout.write(json.dumps(document, indent=2) + "\n")
