"""`kitserve plan`: what `apply` would change, without a change."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from gateway.cli.admin_client import AdminClient, NotRunning
from gateway.cli.config_files import read_file
from gateway.cli.options import (
    FAILED,
    MISUSED,
    AdminOfFile,
    ConfigFile,
    Home,
    Locked,
    Output,
    OutputFormat,
    default_admin,
    err,
    out,
    print_json,
)
from gateway.cli.plan_text import plan_lines
from gateway.config.config import GatewayConfig
from gateway.errors import KitserveError

CHANGES = 2
"""The exit code where there is a change, as of `terraform plan -detailed-exitcode`."""


class PlanCommand(TyperCommand):
    """A command whose misuse ends with 1, as 2 says something else."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Parse the arguments."""
        try:
            return super().make_context(info_name, args, parent, **extra)
        except Exception as error:
            if getattr(error, "exit_code", None) == MISUSED:
                error.exit_code = FAILED  # type: ignore[attr-defined]  # of typer's usage errors
            raise


app = typer.Typer(add_completion=False)


@app.command(cls=PlanCommand)
def plan(
    file: ConfigFile,
    home: Home,
    admin: AdminOfFile = None,
    against: Annotated[
        Path | None,
        typer.Option(
            help="Compare with this config, not with what runs.",
            metavar="FILE",
            show_default="the running Kitserve; where none runs, nothing",
        ),
    ] = None,
    locked: Locked = False,
    pull: Annotated[
        bool, typer.Option("--pull", help="Pull the models that are new, to inspect them too.")
    ] = False,
    output: OutputFormat = Output.TEXT,
) -> None:
    """Show what applying FILE would change, and change nothing.

    The exit code is 0 where nothing changes, 2 where something does, and 1 where FILE would not be in force.
    """
    try:
        document = _document(read_file(file, locked), admin, against, locked, pull, home)
    except KitserveError as error:
        err.print(f"kitserve: {error}", style="red", markup=False)
        raise typer.Exit(FAILED) from None
    if output is Output.JSON:
        print_json(document)
    else:
        for line, style in plan_lines(document):
            out.print(line, style=style, markup=False, highlight=False)
    if document["is_refused"]:
        raise typer.Exit(FAILED)
    if document["has_changes"]:
        raise typer.Exit(CHANGES)


def _document(
    config: GatewayConfig, admin: str | None, against: Path | None, locked: bool, pull: bool, home: Path
) -> dict[str, Any]:
    """Ask the gateway for the plan; where none is asked or none runs, make it here."""
    before = None
    if against is not None:
        before = read_file(against, locked)
    else:
        try:
            return AdminClient(admin or default_admin(str(config.admin))).plan(config, pull)
        except NotRunning:
            if admin is not None:
                raise
            err.print("no Kitserve runs here: compared with nothing", style="dim", markup=False)
    # Imported here, as the runtimes come with it.
    from gateway.control.planning.local import local_plan

    return asdict(local_plan(config, before, home, may_pull=pull))
