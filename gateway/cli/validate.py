"""`kitserve validate` and `kitserve schema`: configs checked where they are written, without a Kitserve."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.options import MISUSED, Output, OutputFormat, err, out, print_json
from gateway.config.config import read_config
from gateway.config.lock import lock_path, read_lock
from gateway.errors import ConfigError
from gateway.wording import counted
from runtimes import select as runtimes

_LINE = re.compile(r"line ([0-9]+): (.*)", re.DOTALL)

ConfigFiles = Annotated[
    list[Path], typer.Argument(help="The config files (YAML or JSON).", metavar="FILE...")
]


def validate(
    files: ConfigFiles,
    output: OutputFormat = Output.TEXT,
    locked: Annotated[
        bool, typer.Option("--locked", help="Check that the lock of each FILE fits it, too.")
    ] = False,
) -> None:
    """Check config files, and name every fault with its line.

    No registry and no Kitserve is asked. The exit code is 2 where there is a fault.
    """
    documents = []
    for file in files:
        faults = _faults(file, locked)
        documents.append(
            {
                "file": str(file),
                "faults": [{"file": name, "line": line, "message": text} for name, line, text in faults],
            }
        )
        for name, line, text in faults if output is Output.TEXT else ():
            # As compilers write it, which editors and CI read.
            err.print(f"{name}:{line}: {text}", markup=False, highlight=False)
    has_faults = any(document["faults"] for document in documents)
    if output is Output.JSON:
        print_json({"is_valid": not has_faults, "files": documents})
    elif not has_faults:
        out.print(f"{counted(len(files), 'file')} without a fault", markup=False)
    if has_faults:
        raise typer.Exit(MISUSED)


def schema() -> None:
    """Print the JSON Schema of the config file, for editors."""
    from gateway.config.schema import config_schema

    sys.stdout.write(json.dumps(config_schema(), indent=2, ensure_ascii=False) + "\n")


def _faults(file: Path, is_locked: bool) -> list[tuple[str, int, str]]:
    """Return each fault of a config, and of its lock, with the file and the line that it is in."""
    try:
        config = read_config(file, needs_models=True, runtimes=runtimes.names())
        lock = lock_path(file)
        differences = read_lock(lock, file).differences(config) if is_locked else []
    except ConfigError as error:
        return [_placed(error.source, fault) for fault in error.faults]
    return [_placed(str(lock), difference) for difference in differences]


def _placed(source: str, fault: str) -> tuple[str, int, str]:
    match = _LINE.fullmatch(fault)
    return (source, 1, fault) if match is None else (source, int(match[1]), match[2])
