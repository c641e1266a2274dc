"""kitserve cache: what this machine keeps of kits."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from pydantic import ByteSize, TypeAdapter, ValidationError
from rich.filesize import decimal

from gateway.cli import tables
from gateway.cli.options import FAILED, Home, Output, OutputFormat, out, print_json
from gateway.kits.cache import CachedKit, Freed
from gateway.kits.library import Library, cache_directory

app = typer.Typer(help="Show, shrink and check what this machine keeps of kits.", no_args_is_help=True)

_SIZE = TypeAdapter(ByteSize)


def _size(text: str) -> int:
    try:
        return int(_SIZE.validate_python(text))
    except ValidationError:
        raise typer.BadParameter(f"{text!r} is not a size, such as 20GiB") from None


@app.command()
def ls(home: Home, output: OutputFormat = Output.TEXT) -> None:
    """List the kits on this machine, the most recently used first."""
    kits = Library(cache_directory(home)).cache.kits()
    if output is Output.JSON:
        print_json([_document(kit) for kit in kits])
    else:
        out.print(tables.cache_table(kits))


@app.command()
def prune(
    home: Home,
    keep: Annotated[
        str, typer.Option(help="Stop when no more than this is left, such as 20GiB.", metavar="SIZE")
    ] = "0",
    output: OutputFormat = Output.TEXT,
) -> None:
    """Remove kits that are not in use, the least recently used first, and what broken-off pulls left."""
    freed = Library(cache_directory(home)).cache.prune(_size(keep))
    if output is Output.JSON:
        print_json({**asdict(freed), "kits": [_document(kit) for kit in freed.kits]})
        return
    for kit in freed.kits:
        out.print(f"removed {kit.digest}  {' '.join(kit.names)}", markup=False)
    out.print(_summary(freed))


@app.command()
def verify(home: Home, output: OutputFormat = Output.TEXT) -> None:
    """Read everything through; what is damaged is removed, and fetched again when it is needed."""
    damage = Library(cache_directory(home)).cache.verify()
    bad = len(damage.bad_blobs) + len(damage.bad_kits)
    if output is Output.JSON:
        print_json({**asdict(damage), "bad_blobs": [str(digest) for digest in damage.bad_blobs]})
    else:
        for what in (*(f"blob {digest}" for digest in damage.bad_blobs), *damage.bad_kits):
            out.print(f"damaged, removed: {what}", markup=False)
        out.print(f"{damage.blobs} blobs and {damage.kits} unpacked kits read, {bad} damaged")
    if bad:
        raise typer.Exit(FAILED)


def _summary(freed: Freed) -> str:
    rest = f"{freed.blobs} stray blob(s), {freed.transfers} broken-off transfer(s)"
    return f"{len(freed.kits)} kit(s), {rest}: {decimal(freed.size)} freed"


def _document(kit: CachedKit) -> dict[str, Any]:
    used = datetime.fromtimestamp(kit.last_used, UTC).isoformat(timespec="seconds")
    return {**asdict(kit), "digest": str(kit.digest), "last_used": used}
