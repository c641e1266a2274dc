"""`kitserve cache`: the kits that this machine keeps."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ByteSize, TypeAdapter, ValidationError
from rich.filesize import decimal

from gateway.cli.options import FAILED, Home, Output, OutputFormat, out, print_json, private_home
from gateway.cli.tables import cache_table
from gateway.kits.cache import CachedKit, Freed
from gateway.kits.library import Library, cache_directory
from gateway.wording import counted

app = typer.Typer(
    add_completion=False, help="List, prune and verify the kits on this machine.", no_args_is_help=True
)

_SIZE = TypeAdapter(ByteSize)


def _size(text: str) -> int:
    try:
        return int(_SIZE.validate_python(text))
    except ValidationError:
        raise typer.BadParameter(f"{text!r} is not a size, such as 20GiB") from None


@app.command()
def ls(home: Home, output: OutputFormat = Output.TEXT) -> None:
    """List the kits on this machine, the most recently used first."""
    kits = _library(home).cache.kits()
    if output is Output.JSON:
        print_json([_document(kit) for kit in kits])
    else:
        out.print(cache_table(kits))


@app.command()
def prune(
    home: Home,
    keep: Annotated[str, typer.Option(help="How much to keep at most, such as 20GiB.", metavar="SIZE")] = "0",
    output: OutputFormat = Output.TEXT,
) -> None:
    """Remove kits that are not in use, the least recently used first, and what interrupted pulls left."""
    freed = _library(home).cache.prune(_size(keep))
    if output is Output.JSON:
        print_json({**asdict(freed), "kits": [_document(kit) for kit in freed.kits]})
        return
    for kit in freed.kits:
        out.print(f"removed {kit.digest}  {' '.join(kit.names)}", markup=False)
    out.print(_summary(freed))


@app.command()
def verify(home: Home, output: OutputFormat = Output.TEXT) -> None:
    """Verify all content; what is damaged is removed, and pulled again when it is needed."""
    damage = _library(home).cache.verify()
    damaged = len(damage.bad_blobs) + len(damage.bad_kits)
    if output is Output.JSON:
        print_json({**asdict(damage), "bad_blobs": [str(digest) for digest in damage.bad_blobs]})
    else:
        for name in (*(f"blob {digest}" for digest in damage.bad_blobs), *damage.bad_kits):
            out.print(f"damaged, removed: {name}", markup=False)
        looked_at = f"{counted(damage.blobs, 'blob')} and {counted(damage.kits, 'unpacked kit')}"
        out.print(f"{looked_at} verified, {damaged} damaged")
    if damaged:
        raise typer.Exit(FAILED)


def _library(home: Path) -> Library:
    return Library(cache_directory(private_home(home)))


def _summary(freed: Freed) -> str:
    rest = f"{counted(freed.blobs, 'blob')} of no kit, {counted(freed.transfers, 'interrupted transfer')}"
    return f"{counted(len(freed.kits), 'kit')}, {rest}: {decimal(freed.size)} freed"


def _document(kit: CachedKit) -> dict[str, Any]:
    used = datetime.fromtimestamp(kit.last_used, UTC).isoformat(timespec="seconds")
    return {**asdict(kit), "digest": str(kit.digest), "last_used": used}
