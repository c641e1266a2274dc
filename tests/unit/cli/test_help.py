"""What `kitserve --help` shows: a person reads it first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

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


def _all_commands(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    yield name, command
    for part, below in getattr(command, "commands", {}).items():
        yield from _all_commands(f"{name} {part}", below)


def test_paragraphs_are_wrapped_by_the_terminal_and_not_as_in_the_source() -> None:
    shown = [
        entry
        for name, command in typer.main.get_command(app).commands.items()  # type: ignore[attr-defined]
        for entry in _all_commands(name, command.loaded)
    ]
    assert {"lock", "rollout replay", "cache verify"} <= {name for name, _ in shown}
    for name, command in shown:
        paragraphs = (command.help or "").split("\n\n")
        assert not [paragraph for paragraph in paragraphs if "\n" in paragraph], name
