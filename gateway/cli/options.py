"""What commands share: where they print, and the options that several of them take."""

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
"""The exit code of a command that could not do what it was asked."""
MISUSED = 2
"""The exit code for what a user wrote wrong."""

# A pipe has no width: nothing is cut off for it.
_WIDE = None if sys.stdout.isatty() else 240
out = Console(highlight=False, soft_wrap=True, width=_WIDE)
err = Console(stderr=True, highlight=False, soft_wrap=True)


class Output(StrEnum):
    """How a command prints what it found."""

    TEXT = "text"
    JSON = "json"


def _default_home() -> Path:
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(os.environ.get("KITSERVE_HOME") or Path(data) / "kitserve")


Home = Annotated[
    Path,
    typer.Option(
        help="Where kits, state and logs are kept.",
        envvar="KITSERVE_HOME",
        default_factory=_default_home,
        show_default="~/.local/share/kitserve",
    ),
]
Admin = Annotated[str, typer.Option(help="The admin address of a running Kitserve.", metavar="HOST:PORT")]
OutputFormat = Annotated[Output, typer.Option("--output", "-o", help="How to print.")]


def print_json(document: Any) -> None:
    """Print a document for programs."""
    sys.stdout.write(json.dumps(document, indent=2) + "\n")
