"""`kitserve apply` and `kitserve status`: the models of a running Kitserve."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from gateway.cli import tables
from gateway.cli.admin_client import AdminClient
from gateway.cli.options import (
    ADMIN,
    FAILED,
    WATCH_SECONDS,
    Admin,
    ConfigFile,
    Output,
    OutputFormat,
    out,
    print_json,
)
from gateway.cli.progress import SETTLED, Reporter
from gateway.config.config import load_config
from gateway.errors import ControlError

_APPLY_SECONDS = 600.0
_RESTART_SECONDS = 20.0
"""How long a gateway may take that is being started again."""


def apply(
    file: ConfigFile,
    admin: Annotated[
        str | None,
        typer.Option(
            help="Admin address of the running Kitserve.", metavar="HOST:PORT", show_default="`admin` in FILE"
        ),
    ] = None,
    wait: Annotated[bool, typer.Option(help="Wait until every model is ready or has failed.")] = True,
) -> None:
    """Apply FILE to a running Kitserve."""
    config = load_config(file)
    client = AdminClient(admin or str(config.admin))
    generation = client.apply(config)
    if not wait:
        return
    with Reporter(out) as reporter:
        status = _wait_until_settled(client, generation, reporter)
    if any(model["state"] == "failed" for model in status["models"]):
        raise typer.Exit(FAILED)


def status(admin: Admin = ADMIN, output: OutputFormat = Output.TEXT) -> None:
    """Show the models of a running Kitserve, and their versions."""
    client = AdminClient(admin)
    document = client.status()
    deadline = time.monotonic() + _RESTART_SECONDS
    while document["wanted_generation"] and not document["generation"] and time.monotonic() < deadline:
        time.sleep(WATCH_SECONDS)
        document = client.status()
    if output is Output.JSON:
        print_json(document)
        return
    out.print(tables.models_table(document["models"]))
    for model in document["models"]:
        if model["message"]:
            out.print(tables.message_line(model), markup=False)
    if document["edge"]:
        out.print(f"edge: {document['edge']}", markup=False)
    if document["trouble"]:
        out.print(f"gateway: {document['trouble']}", markup=False)


def _wait_until_settled(client: AdminClient, generation: int, reporter: Reporter) -> dict[str, Any]:
    """Report what changes until every model is ready or has failed; returns the last status.

    The config is applied by now: a gateway that is started again meanwhile goes on with it.

    Raises:
        ControlError: when that takes too long, or the gateway does not come back.
    """
    started = answered = time.monotonic()
    while True:
        try:
            status = client.status()
            answered = time.monotonic()
            if status["generation"] >= generation:
                reporter.report_models(status)
                if all(model["state"] in SETTLED for model in status["models"]):
                    return status
        except ControlError:
            if time.monotonic() - answered > _RESTART_SECONDS:
                raise
        if time.monotonic() - started > _APPLY_SECONDS:
            message = f"not every model is ready after {_APPLY_SECONDS:.0f} s; see `kitserve status`"
            raise ControlError(message)
        time.sleep(WATCH_SECONDS)
