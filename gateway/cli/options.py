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
Admin = Annotated[str, typer.Option(help="Admin address of the running Kitserve.", metavar="HOST:PORT")]
OutputFormat = Annotated[Output, typer.Option("--output", "-o", help="Format of the output.")]


def print_json(document: Any) -> None:
    """Print a document for programs."""
    sys.stdout.write(json.dumps(document, indent=2) + "\n")
