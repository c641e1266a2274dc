"""What `kitserve --help` shows: a person reads it first."""

from __future__ import annotations

import typer

from gateway.cli.lazy import LazyCommand
from gateway.cli.main import app


def test_each_command_has_one_line_and_they_come_in_the_order_of_their_use() -> None:
    shown = list(typer.main.get_command(app).commands.items())  # type: ignore[attr-defined]  # a group
    names = [name for name, _ in shown]
    assert names[:7] == ["run", "serve", "validate", "plan", "lock", "apply", "schema"]
    for name, command in shown:
        line = command.help.split("\n\n")[0]
        assert len(line) <= 66, f"{name} takes more than a line of a terminal of 80 columns: {line}"
        assert command.rich_help_panel, name


def test_the_line_of_each_command_is_the_first_of_its_own_help() -> None:
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        assert isinstance(command, LazyCommand), f"{name} is imported for the help of another command"
        assert command.help == command.loaded.help.split("\n\n")[0].replace("\n", " ")
