"""`kitserve rollout`: how far a model's rollout is, and a person's orders to it."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer
from rich.live import Live
from rich.text import Text

from gateway.cli.admin_client import AdminClient
from gateway.cli.completion import ModelName
from gateway.cli.options import (
    FAILED,
    Admin,
    Output,
    OutputFormat,
    out,
    print_json,
    timeout_option,
)
from gateway.cli.outcomes import outcome
from gateway.cli.rollout_records import records, replay
from gateway.cli.tables import events_table, model_line, rollout_text
from gateway.cli.waiting import statuses
from gateway.errors import ControlError

app = typer.Typer(help="Show and control the rollout of a model.", no_args_is_help=True)

_REFRESH_SECONDS = 1.0


@app.command()
def status(
    name: ModelName,
    admin: Admin,
    output: OutputFormat = Output.TEXT,
    watch: Annotated[bool, typer.Option(help="Refresh the text each second, until Ctrl-C.")] = False,
    wait: Annotated[
        bool,
        typer.Option("--wait", help="Wait until the rollout has ended; exit code 1 if it is not Healthy."),
    ] = False,
    timeout: Annotated[
        float | None,
        timeout_option("no limit"),
    ] = None,
) -> None:
    """Show the rollout's phase, versions, steps and checks."""
    client = AdminClient(admin)
    rollout = client.rollout(name)
    if wait:
        rollout = _wait_until_over(client, name, timeout, is_reported=output is Output.TEXT)
    if output is Output.JSON:
        print_json(rollout)
    elif watch and not wait:
        _watch(client, name, rollout)
    else:
        out.print(rollout_text(rollout))
    if wait and rollout["phase"] != "Healthy":
        raise typer.Exit(FAILED)


@app.command()
def promote(
    name: ModelName,
    admin: Admin,
    full: Annotated[bool, typer.Option("--full", help="Skip all remaining steps.")] = False,
) -> None:
    """Go on to the rollout's next step."""
    _order(admin, name, "promote", {"full": full})


@app.command()
def abort(
    name: ModelName,
    admin: Admin,
    message: Annotated[str, typer.Option("--message", "-m", help="The reason, for the history.")] = "",
) -> None:
    """Send all calls to the stable version, at once."""
    _order(admin, name, "abort", {"message": message})


@app.command()
def retry(name: ModelName, admin: Admin) -> None:
    """Start again a rollout that failed, was aborted or rolled back."""
    _order(admin, name, "retry", {})


@app.command()
def rollback(
    name: ModelName,
    admin: Admin,
    digest: Annotated[
        str,
        typer.Argument(
            help="Digest, first digits of it, or tag.", metavar="DIGEST", show_default="the previous version"
        ),
    ] = "",
) -> None:
    """Return to an earlier version, without steps."""
    _order(admin, name, "rollback", {"digest": digest})


@app.command()
def history(name: ModelName, admin: Admin, output: OutputFormat = Output.TEXT) -> None:
    """Show the events of the model's rollouts, the latest first."""
    client = AdminClient(admin)
    events = client.rollout_history(name)
    if not events:
        client.model(name)  # which fails, and names the models, where there is none of that name
    if output is Output.JSON:
        print_json(events)
    else:
        out.print(events_table(events))


app.command()(replay)
app.command()(records)


def _order(admin: str, name: str, order: str, fields: dict[str, Any]) -> None:
    out.print(rollout_text(AdminClient(admin).order_rollout(name, order, fields)))


def _watch(client: AdminClient, name: str, rollout: dict[str, Any]) -> None:
    """Show a rollout as it goes on, without end."""
    with Live(rollout_text(rollout), console=out, auto_refresh=False) as live:
        while True:
            time.sleep(_REFRESH_SECONDS)
            try:
                live.update(rollout_text(client.rollout(name)), refresh=True)
            except ControlError as error:
                live.update(Text(str(error), "red"), refresh=True)


def _wait_until_over(
    client: AdminClient, name: str, seconds: float | None, is_reported: bool
) -> dict[str, Any]:
    """Wait until the last config is in force for a model, and its rollout has ended.

    Raises:
        ControlError: when that takes too long, the model is removed, or the gateway does not come back.
    """
    last_line = ""
    for status in statuses(client, seconds):
        if not status["generation"] or status["generation"] < status["wanted_generation"]:
            continue
        model = next((model for model in status["models"] if model["name"] == name), None)
        if model is None or model["rollout"] is None:
            raise ControlError(f"the rollout of {name} is no more: the config has changed")
        result, line = outcome(model), model_line(model)
        if result.advice and result.is_settled and not result.is_over:
            line = f"{line}\n{result.advice}"
        if is_reported and line != last_line:
            last_line = line
            out.print(line, markup=False)
        if result.is_over:
            return client.rollout(name)
    rollout = client.rollout(name)
    raise ControlError(
        f"given up after {seconds:g} s: the rollout of {name} is {rollout['phase']} "
        f"({rollout['reason']}): {rollout['message']}"
    )
