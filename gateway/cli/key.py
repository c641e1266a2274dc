"""`kitserve key`: makes keys for callers. A key is shown once; what is kept is its hash."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
import yaml

from gateway.cli.options import err, out
from gateway.config.access import check_key_name
from gateway.config.keys import parse_keys
from gateway.edge.keys import hash_of, new_key
from gateway.errors import ConfigError

app = typer.Typer(add_completion=False, help="Make keys for those who call models.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep `new` a command of its own, even while it is the only one."""


def _name(value: str) -> str:
    try:
        return check_key_name(value)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


@app.command()
def new(
    name: Annotated[
        str,
        typer.Argument(
            help="Who gets the key; logs and metrics say this name.", metavar="NAME", callback=_name
        ),
    ],
    file: Annotated[
        Path | None,
        typer.Option(
            help="Add the key's hash to this file, which `keys:` in the config names.",
            metavar="FILE",
            show_default="print what to add",
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="What it may call: MODEL or MODEL@VERSION; may be given again.", show_default="all"
        ),
    ] = None,
    per_second: Annotated[
        int | None, typer.Option(help="How many calls within a second.", min=1, show_default="no limit")
    ] = None,
    per_minute: Annotated[
        int | None, typer.Option(help="How many calls within a minute.", min=1, show_default="no limit")
    ] = None,
    may_choose_canary: Annotated[
        bool, typer.Option("--may-choose-canary", help="Let it call a canary by its name.")
    ] = False,
) -> None:
    """Make a key for NAME and print it, once."""
    key = new_key()
    entry: dict[str, object] = {"name": name, "sha256": hash_of(key)}
    if model:
        entry["models"] = model
    limits = {"per_second": per_second, "per_minute": per_minute}
    entry |= {field: limit for field, limit in limits.items() if limit is not None}
    if may_choose_canary:
        entry["may_choose_canary"] = True
    lines = yaml.safe_dump([entry], sort_keys=False)
    indented = "".join(f"  {line}\n" for line in lines.splitlines())
    if file is None:
        parse_keys(f"keys:\n{indented}", "the key")
        err.print("Add this below `keys:` in the file of keys:", markup=False)
        err.print(indented, markup=False)
    else:
        _add(file, indented)
        err.print(f"The key {name!r} is in {file}. It is shown only here:", markup=False)
    out.print(key, markup=False)


def _add(file: Path, entry: str) -> None:
    """Add an entry at the end of a file of keys.

    Raises:
        ConfigError: when the file would be no file of keys with it; nothing is changed then.
    """
    try:
        if file.exists() and not file.is_file():
            raise ConfigError(str(file), ["is no regular file"])
        before = file.read_text("utf-8") if file.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(file), [f"cannot be read: {error}"]) from error
    if before and not before.endswith("\n"):
        before += "\n"
    after = f"{before}{entry}" if before.strip() else f"keys:\n{entry}"
    parse_keys(after, str(file))
    try:
        file.touch(mode=0o600)
        # It stays the same file, with its owner and its mode; what reads it half written asks again.
        file.write_text(after, "utf-8")
    except OSError as error:
        raise ConfigError(str(file), [f"cannot be written: {error.strerror}"]) from error
