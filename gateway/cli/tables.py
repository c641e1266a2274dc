"""What the command line shows: models, kits and progress, for people; JSON is the caller's own."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from gateway.kits.cache import CachedKit

_COLOURS = {"ready": "green", "asleep": "cyan", "failed": "red", "loading": "yellow", "pulling": "yellow"}


def models_table(models: Iterable[dict[str, Any]]) -> Table:
    """Models and their versions, a row a version."""
    names = ("MODEL", "STATE", "VERSION", "DIGEST", "WEIGHT", "REPLICAS", "RUNTIME")
    table = _table(*names)
    for model in models:
        name, state = model["name"], f"[{_COLOURS[model['state']]}]{model['state']}[/]"
        for version in model["versions"] or [None]:
            if version is None:
                table.add_row(name, state, *["-"] * 5)
            else:
                table.add_row(
                    name,
                    state,
                    version["tag"],
                    version["digest"].removeprefix("sha256:")[:12],
                    f"{version['weight']} %" if version["role"] else "-",
                    str(version["replicas"]),
                    version["runtime"] or "-",
                )
            if version is not None and version["note"]:
                table.add_row("", "", _text(version["note"], "yellow"))
            name = state = ""
    return table


def model_line(model: dict[str, Any]) -> str:
    """A model's state in one line, for logs and for terminals that are none."""
    versions = ", ".join(
        f"{version['tag']}@{version['digest'].removeprefix('sha256:')[:12]} {version['weight']} %"
        for version in model["versions"]
        if version["role"]
    )
    parts = [f"{model['name']}: {model['state']}", versions, model["message"]]
    return "  ".join(part for part in parts if part)


class PullProgress:
    """Bytes pulled: a bar on a terminal, a line at each tenth otherwise."""

    def __init__(self, console: Console, name: str) -> None:
        self._console = console
        self._name = name
        self._tenth = -1
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=console,
            transient=True,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> PullProgress:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def pulling(self, done: int, total: int) -> None:
        """Show how many bytes are here."""
        if self._console.is_terminal:
            if self._task is None:
                self._task = self._bar.add_task(self._name, total=total)
            self._bar.update(self._task, completed=done)
            return
        tenth = 10 * done // total if total else 10
        if tenth > self._tenth:
            self._tenth = tenth
            self._console.print(f"{self._name}: {done} of {total} bytes", markup=False)

    def unpacking(self) -> None:
        """Say that the layers are here."""
        if not self._console.is_terminal:
            self._console.print(f"{self._name}: unpacking", markup=False)


def cache_table(kits: Iterable[CachedKit]) -> Table:
    """Kits on this machine, a row a kit."""
    table = _table("KIT", "DIGEST", "STORED", "UNPACKED", "LAST USED", "IN USE")
    for kit in kits:
        table.add_row(
            _text("\n".join(kit.names) or "-"),
            kit.digest.short,
            decimal(kit.stored),
            decimal(kit.unpacked),
            datetime.fromtimestamp(kit.last_used).astimezone().strftime("%Y-%m-%d %H:%M"),
            "yes" if kit.in_use else "no",
        )
    return table


def kit_text(kit: dict[str, Any]) -> Iterable[Any]:
    """A kit as `inspect` shows it: its names, its layers, its runtime and its tensors."""
    yield _text(kit["reference"], "bold")
    for name in ("digest", "format", "package", "framework", "model"):
        if kit[name]:
            yield _text(f"{name:<9}  {kit[name]}")
    for parent in kit["parents"]:
        yield _text(f"parent     {parent}")
    layers = _table("LAYER", "DIGEST", "SIZE", "COMPRESSION", "SERVED", "PATH")
    for layer in kit["layers"]:
        layers.add_row(
            layer["role"],
            layer["digest"].removeprefix("sha256:")[:12],
            f"{layer['size']:,}",
            layer["compression"],
            "yes" if layer["served"] else "no",
            _text(layer["path"] or "-"),
        )
    yield layers
    trust = kit["trust"]
    verdict = ("the policy allows it", "green") if trust["allowed"] else ("the policy refuses it", "red")
    yield Text("trust: ") + _text(*verdict)
    for reason in trust["reasons"]:
        yield _text(f"  {reason}")
    if kit["runtime"] is None:
        yield Text("runtime: ") + _text(kit["runtime_message"], "yellow")
        return
    yield _text(f"runtime: {kit['runtime']} ({kit['file']})")
    tensors = _table("TENSOR", "NAME", "DATATYPE", "SHAPE")
    for kind in ("inputs", "outputs"):
        for tensor in kit[kind]:
            shape = "any" if tensor["shape"] is None else str(tensor["shape"])
            tensors.add_row(kind.removesuffix("s"), _text(tensor["name"]), tensor["datatype"], shape)
    if tensors.row_count:
        yield tensors


def _table(*names: str) -> Table:
    """A table that breaks what is too long for the line, and never cuts it off."""
    table = Table(box=None, pad_edge=False)
    for name in names:
        table.add_column(name, overflow="fold")
    return table


def _text(words: str, style: str = "") -> Text:
    """Words from a kit: no markup of ours, and no orders to the terminal."""
    return Text("".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in words), style)
