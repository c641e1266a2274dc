"""`kitserve apply`: a config put in force at a running Kitserve."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gateway.cli.admin_client import AdminClient
from gateway.cli.applying import apply_config
from gateway.cli.config_files import read_file
from gateway.cli.options import (
    FAILED,
    AdminOfFile,
    ConfigFile,
    Locked,
    default_admin,
    out,
    timeout_option,
)
from gateway.cli.outcomes import outcome
from gateway.cli.progress import Reporter
from gateway.cli.waiting import statuses
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
