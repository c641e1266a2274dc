"""`kitserve apply` and `kitserve status`: the models of a running Kitserve."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from gateway.cli import tables
from gateway.cli.admin_client import AdminClient
from gateway.cli.applying import apply_config
from gateway.cli.completion import model_names
from gateway.cli.config_files import read_file
from gateway.cli.options import (
    FAILED,
    WATCH_SECONDS,
    Admin,
    AdminOfFile,
    ConfigFile,
    Locked,
    Output,
    OutputFormat,
    check_model_name,
    default_admin,
    out,
    print_json,
    timeout_option,
)
from gateway.cli.outcomes import outcome
from gateway.cli.progress import Reporter
from gateway.cli.waiting import RESTART_SECONDS, statuses
from gateway.errors import ControlError

_APPLY_SECONDS = 600.0


def apply(
    file: ConfigFile,
    admin: AdminOfFile = None,
    wait: Annotated[
        bool | None,
        typer.Option(
            help="Wait until every rollout has ended, or for nothing.",
            show_default="until every model is ready or has failed",
        ),
    ] = None,
    timeout: Annotated[
        float | None,
        timeout_option("10m; with --wait, no limit"),
    ] = None,
    locked: Locked = False,
) -> None:
    """Apply FILE to a running Kitserve; `-` is standard input."""
    config = read_file(file, locked)
    client = AdminClient(admin or default_admin(str(config.admin)))
    numbers = _rollout_numbers(client.status())
    generation, changes = apply_config(client, config)
    for line in changes:
        out.print(line, markup=False)
    if wait is False:
        return
    seconds = _APPLY_SECONDS if timeout is None and not wait else timeout
    with Reporter(out) as reporter:
        models = _wait_until_over(client, generation, reporter, bool(wait), seconds)
    outcomes = [outcome(model, numbers.get(model["name"])) for model in models]
    for result in outcomes:
        if result.advice:
            out.print(result.advice, markup=False)
    if any(result.is_lost for result in outcomes):
        raise typer.Exit(FAILED)


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


def _rollout_numbers(status: dict[str, Any]) -> dict[str, int]:
    """Return the number of each model's last rollout."""
    return {model["name"]: model["rollout"]["number"] for model in status["models"] if model["rollout"]}


def _wait_until_over(
    client: AdminClient, generation: int, reporter: Reporter, for_rollouts: bool, seconds: float | None
) -> list[dict[str, Any]]:
    """Report what changes until every model is settled, and its rollout has ended where that is waited for.

    Returns:
        The last status of the models.

    Raises:
        ControlError: when that takes too long, or the gateway does not come back.
    """
    waiting = "the config is not in force yet"
    last_advice: dict[str, str] = {}
    for status in statuses(client, seconds):
        if status["generation"] < generation:
            continue
        reporter.report_models(status)
        outcomes = {model["name"]: outcome(model) for model in status["models"]}
        names = [
            name
            for name, result in outcomes.items()
            if not (result.is_over if for_rollouts else result.is_settled)
        ]
        if not names:
            return list(status["models"])
        waiting = f"still under way: {', '.join(names)}"
        for name in names if for_rollouts else ():
            if outcomes[name].is_settled and outcomes[name].advice != last_advice.get(name):
                last_advice[name] = outcomes[name].advice
                reporter.say(last_advice[name])
    raise ControlError(f"given up after {seconds:g} s; {waiting}; see `kitserve status`")
