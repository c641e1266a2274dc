"""What commands share: options, arguments, exit codes, and where they print."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli.admin_address import admin_url, default_home, home_socket, socket_path
from gateway.cli.terminal import terminal
from gateway.config.durations import seconds_of
from gateway.config.names import MODEL_NAME
from gateway.control.admin.socket_file import ForeignListener, connect_socket
from gateway.home import make_private

FAILED = 1
"""The exit code of a command that could not do its work."""
MISUSED = 2
"""The exit code for a wrong command, config or reference."""
WATCH_SECONDS = 0.5
"""The time between two looks at the status of a running Kitserve."""
ADMIN_VARIABLE = "KITSERVE_ADMIN"
"""The environment variable with the admin address, where none is given."""
_CONNECT_SECONDS = 1.0
_ADMIN = "127.0.0.1:8081"

# A pipe has no width: nothing is cut off for it.
_WIDTH = None if sys.stdout.isatty() else 240
out = terminal(width=_WIDTH)
err = terminal(stderr=True)


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
        seconds = seconds_of(text if text[-1:].isalpha() else f"{text}s")
    except ValueError:
        seconds = 0.0
    if seconds <= 0:
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
        if address is not None and socket_path(address) is None:
            admin_url(address)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return address


AdminOfFile = Annotated[
    str | None,
    typer.Option(
        help="Admin address of the running Kitserve.",
        metavar="SOCKET|HOST:PORT|URL",
        show_default="admin.sock in the home, else `admin` in FILE",
        callback=check_admin_address,
        envvar=ADMIN_VARIABLE,
    ),
]
"""Which Kitserve a command asks that has a config."""


def check_model_name(name: str | None) -> str | None:
    """Refuse a name that no model can have."""
    if name is not None and not MODEL_NAME.fullmatch(name):
        raise typer.BadParameter(f"{name!r} cannot be the name of a model")
    return name


def default_admin(file_address: str = _ADMIN) -> str:
    """Return where Kitserve is asked if nobody says it: at the socket in the home, else at this address."""
    path = home_socket()
    try:
        connect_socket(path, _CONNECT_SECONDS).close()
    except ForeignListener:
        pass  # The command names the socket when it fails.
    except OSError:
        return file_address
    return str(path)


Home = Annotated[
    Path,
    typer.Option(
        help="Directory for kits, state and logs.",
        envvar="KITSERVE_HOME",
        default_factory=default_home,
        show_default="~/.local/share/kitserve",
    ),
]
ConfigFile = Annotated[Path, typer.Argument(help="The config file (YAML or JSON).", metavar="FILE")]
Locked = Annotated[
    bool,
    typer.Option("--locked", help="Take the digests of FILE's kits from its lock, see `kitserve lock`."),
]
Admin = Annotated[
    str,
    typer.Option(
        help="Admin address of the running Kitserve.",
        metavar="SOCKET|HOST:PORT|URL",
        callback=check_admin_address,
        envvar=ADMIN_VARIABLE,
        default_factory=default_admin,
        show_default="admin.sock in the home",
    ),
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
