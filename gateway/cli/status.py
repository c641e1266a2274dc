"""`kitserve status`: the models of a running Kitserve."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from gateway.cli import tables
from gateway.cli.admin_client import AdminClient
from gateway.cli.completion import model_names
from gateway.cli.options import WATCH_SECONDS, Admin, Output, OutputFormat, check_model_name, out, print_json
from gateway.cli.outcomes import outcome
from gateway.cli.waiting import RESTART_SECONDS


def status(
    admin: Admin,
    name: Annotated[
        str | None,
        typer.Argument(
            help="Only this model.",
            metavar="NAME",
            show_default="all",
            callback=check_model_name,
            autocompletion=model_names,
        ),
    ] = None,
    output: OutputFormat = Output.TEXT,
) -> None:
    """Show the models of a running Kitserve, and their versions."""
    client = AdminClient(admin)
    document = client.status()
    deadline = time.monotonic() + RESTART_SECONDS
    while document["wanted_generation"] and not document["generation"] and time.monotonic() < deadline:
        time.sleep(WATCH_SECONDS)
        document = client.status()
    if name is not None:
        # By a call of its own: where there is no such model, the gateway's error names those that there are.
        document["models"] = [client.model(name)]
    if output is Output.JSON:
        print_json(document if name is None else document["models"][0])
        return
    out.print(tables.models_table(document["models"]))
    for line in tables.containment_lines(document["models"]):
        out.print(line, style="dim", markup=False)
    for line in tables.device_lines(document["models"]):
        out.print(line, style="dim", markup=False)
    for model in document["models"]:
        if model["message"]:
            out.print(tables.message_line(model), markup=False)
        if advice := outcome(model).advice:
            out.print(advice, markup=False)
    if document["edge"]:
        out.print(f"edge: {document['edge']}", markup=False)
    if document["trouble"]:
        out.print(f"gateway: {document['trouble']}", markup=False)
