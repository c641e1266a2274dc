"""`kitserve rollout`: how far a model's rollout is, and a person's orders to it."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer
from rich.live import Live
from rich.text import Text

from gateway.cli.admin_client import AdminClient
from gateway.cli.options import ADMIN, Admin, ModelName, Output, OutputFormat, out, print_json
from gateway.cli.tables import events_table, rollout_text
from gateway.errors import ControlError

app = typer.Typer(help="Show and control the rollout of a model.", no_args_is_help=True)

_REFRESH_SECONDS = 1.0


@app.command()
def status(
    name: ModelName,
    admin: Admin = ADMIN,
    output: OutputFormat = Output.TEXT,
    watch: Annotated[bool, typer.Option(help="Refresh the text each second, until Ctrl-C.")] = False,
) -> None:
    """Show the rollout's phase, versions, steps and checks."""
    client = AdminClient(admin)
    if output is Output.JSON:
        print_json(client.rollout(name))
    elif not watch:
        out.print(rollout_text(client.rollout(name)))
    else:
        with Live(rollout_text(client.rollout(name)), console=out, auto_refresh=False) as live:
            while True:
                time.sleep(_REFRESH_SECONDS)
                try:
                    live.update(rollout_text(client.rollout(name)), refresh=True)
                except ControlError as error:
                    live.update(Text(str(error), "red"), refresh=True)


@app.command()
def promote(
    name: ModelName,
    admin: Admin = ADMIN,
    full: Annotated[bool, typer.Option("--full", help="Skip all remaining steps.")] = False,
) -> None:
    """Go on to the rollout's next step."""
    _order(admin, name, "promote", {"full": full})


@app.command()
def abort(
    name: ModelName,
    admin: Admin = ADMIN,
    message: Annotated[str, typer.Option("--message", "-m", help="The reason, for the history.")] = "",
) -> None:
    """Send all calls to the stable version, at once."""
    _order(admin, name, "abort", {"message": message})


@app.command()
def retry(name: ModelName, admin: Admin = ADMIN) -> None:
    """Start again a rollout that failed, was aborted or rolled back."""
    _order(admin, name, "retry", {})


@app.command()
def rollback(
    name: ModelName,
    digest: Annotated[
        str,
        typer.Argument(
            help="Digest, first digits of it, or tag.", metavar="DIGEST", show_default="the previous version"
        ),
    ] = "",
    admin: Admin = ADMIN,
) -> None:
    """Return to an earlier version, without steps."""
    _order(admin, name, "rollback", {"digest": digest})


@app.command()
def history(name: ModelName, admin: Admin = ADMIN, output: OutputFormat = Output.TEXT) -> None:
    """Show the events of the model's rollouts, the latest first."""
    client = AdminClient(admin)
    events = client.rollout_history(name)
    if not events:
        client.model(name)  # which fails, and names the models, where there is none of that name
    if output is Output.JSON:
        print_json(events)
    else:
        out.print(events_table(events))


def _order(admin: str, name: str, order: str, fields: dict[str, Any]) -> None:
    out.print(rollout_text(AdminClient(admin).order_rollout(name, order, fields)))
