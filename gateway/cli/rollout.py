"""kitserve rollout: how far a model's rollout is, and what a person may do about it."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gateway.cli.admin_client import AdminClient
from gateway.cli.options import Admin, Output, OutputFormat, out, print_json
from gateway.errors import ControlError

app = typer.Typer(help="Show and steer the rollout of a model.", no_args_is_help=True)

Model = Annotated[str, typer.Argument(help="The model's name.", metavar="NAME")]

_WATCH_SECONDS = 1.0
_COLOURS = {
    "Healthy": "green",
    "Progressing": "yellow",
    "Paused": "yellow",
    "Degraded": "red",
    "Successful": "green",
    "Failed": "red",
    "Inconclusive": "yellow",
    "Error": "red",
}


@app.command()
def status(
    name: Model,
    admin: Admin = "127.0.0.1:8081",
    output: OutputFormat = Output.TEXT,
    watch: Annotated[bool, typer.Option(help="Show it again each second, until Ctrl-C.")] = False,
) -> None:
    """Show the rollout's phase, steps, weights, checks and verdicts."""
    client = AdminClient(admin)
    if output is Output.JSON:
        print_json(client.rollout(name))
    elif not watch:
        out.print(rollout_text(client.rollout(name)))
    else:
        with Live(rollout_text(client.rollout(name)), console=out, auto_refresh=False) as live:
            while True:
                time.sleep(_WATCH_SECONDS)
                try:
                    live.update(rollout_text(client.rollout(name)), refresh=True)
                except ControlError as error:
                    live.update(Text(str(error), "red"), refresh=True)


@app.command()
def promote(
    name: Model,
    admin: Admin = "127.0.0.1:8081",
    full: Annotated[bool, typer.Option("--full", help="Skip all steps that are left.")] = False,
) -> None:
    """Let the rollout go on to its next step."""
    _order(admin, name, "promote", {"full": full})


@app.command()
def abort(
    name: Model,
    admin: Admin = "127.0.0.1:8081",
    message: Annotated[str, typer.Option("--message", "-m", help="Why; it is kept in the history.")] = "",
) -> None:
    """Give all calls back to the stable version, at once."""
    _order(admin, name, "abort", {"message": message})


@app.command()
def retry(name: Model, admin: Admin = "127.0.0.1:8081") -> None:
    """Try again what failed, was aborted or rolled back."""
    _order(admin, name, "retry", {})


@app.command()
def rollback(
    name: Model,
    digest: Annotated[
        str,
        typer.Argument(help="A digest, its beginning, or a tag; else the version before.", metavar="DIGEST"),
    ] = "",
    admin: Admin = "127.0.0.1:8081",
) -> None:
    """Return to an earlier version, without steps."""
    _order(admin, name, "rollback", {"digest": digest})


@app.command()
def history(name: Model, admin: Admin = "127.0.0.1:8081", output: OutputFormat = Output.TEXT) -> None:
    """Show what happened to the model's rollouts and why, the latest first."""
    events = AdminClient(admin).rollout_history(name)
    if output is Output.JSON:
        print_json(events)
        return
    table = Table(box=None, pad_edge=False)
    for title in ("TIME", "ROLLOUT", "PHASE", "REASON", "STABLE", "CANARY", "WEIGHT", "MESSAGE"):
        table.add_column(title, overflow="fold")
    for event in events:
        table.add_row(
            datetime.fromtimestamp(event["time"]).astimezone().strftime("%Y-%m-%d %H:%M:%S"),
            str(event["number"]),
            _coloured(event["phase"]),
            event["reason"],
            _short(event["stable"]),
            _short(event["canary"]),
            f"{event['weight']} %",
            Text(event["message"]),
        )
    out.print(table)


def rollout_text(rollout: dict[str, Any]) -> RenderableType:
    """A rollout as people read it."""
    head = Text.assemble(f"{rollout['model']}: ", _coloured(rollout["phase"]), f" {rollout['reason']}")
    lines: list[RenderableType] = [head]
    if rollout["message"]:
        lines.append(Text(f"  {rollout['message']}"))
    lines.append(Text(f"stable  {_named(rollout['stable'])}  {100 - rollout['weight']} %"))
    if rollout["canary"]:
        mirrored = f", {rollout['mirror'] * 100:g} % mirrored" if rollout["mirror"] else ""
        lines.append(Text(f"canary  {_named(rollout['canary'])}  {rollout['weight']} %{mirrored}"))
    for number, step in enumerate(rollout["steps"], 1):
        here = number == rollout["step"]
        held = f"  ({rollout['held']:g} s so far)" if here else ""
        lines.append(Text(f"{'>' if here else ' '} step {number}: {step}{held}", "bold" if here else "dim"))
    lines.extend(
        Text.assemble("  ", _coloured(verdict["outcome"]), f" {verdict['check']}: {verdict['message']}")
        for verdict in rollout["verdicts"]
    )
    return Group(*lines)


def _order(admin: str, name: str, order: str, fields: dict[str, Any]) -> None:
    out.print(rollout_text(AdminClient(admin).order_rollout(name, order, fields)))


def _coloured(word: str) -> Text:
    return Text(word, _COLOURS.get(word, ""))


def _named(revision: dict[str, Any]) -> str:
    return f"{revision['tag']}@{revision['digest'].removeprefix('sha256:')[:12]}"


def _short(reference: str) -> str:
    name, _, digest = reference.partition("@sha256:")
    return f"{name.rpartition(':')[2] or name}@{digest[:12]}" if digest else "-"
