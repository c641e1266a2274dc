"""Commands that are imported when they are called, and neither for the help nor at the Tab key.

A group knows of each its name, its panel and one line of help. The rest is in a module of its own, with
whatever the command needs.
"""

from __future__ import annotations

import inspect
from functools import cached_property
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup


class LazyCommand(TyperCommand):
    """Stands for a command, or for a group of them, until it is called.

    Args:
        name: what a person types.
        location: MODULE:NAME of a function, or of a Typer with the command in it.
        help: the first line of its help.
        panel: the panel of the help that it is in.
    """

    def __init__(self, name: str, location: str, *, help: str, panel: str) -> None:  # noqa: A002 - as in Typer
        super().__init__(name, help=help, rich_help_panel=panel)
        self._location = location

    @cached_property
    def loaded(self) -> Any:
        """The command itself."""
        module, _, name = self._location.partition(":")
        command = getattr(import_module(module), name)
        if not isinstance(command, typer.Typer):
            function, command = command, typer.Typer(add_completion=False)
            command.command(self.name)(function)
        loaded = typer.main.get_command(command)
        _join_lines(loaded)
        return loaded


class LazyGroup(TyperGroup):
    """A group with lazy commands; a subclass says which in `lazy_commands`, in the order of the help."""

    lazy_commands: tuple[LazyCommand, ...] = ()

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for command in self.lazy_commands:
            self.add_command(command)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Return the name of the command that is called, the command itself, and what follows it."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command.loaded if isinstance(command, LazyCommand) else command, rest


def _join_lines(command: Any) -> None:
    """Make one line of each paragraph of a command's help, and of those of its commands.

    Typer shows the lines of all paragraphs but the first as they stand in the source, each wrapped by itself.
    """
    if command.help:
        paragraphs = inspect.cleandoc(command.help).split("\n\n")
        command.help = "\n\n".join(" ".join(paragraph.splitlines()) for paragraph in paragraphs)
    for part in getattr(command, "commands", {}).values():
        _join_lines(part)
