"""`kitserve restart`: new workers in place of those that run, one after another."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from gateway.cli.admin_client import AdminClient
from gateway.cli.completion import model_versions
from gateway.cli.options import FAILED, WATCH_SECONDS, Admin, check_model_name, out, timeout_option
from gateway.cli.waiting import RESTART_SECONDS
from gateway.errors import ControlError
from gateway.wording import counted

_UNDER_WAY = "under way"
_FAILED = "failed"
_DEFAULT_SECONDS = 1800.0


def _check(text: str) -> str:
    check_model_name(text.partition(":")[0])
    return text


def restart(
    model: Annotated[
        str,
        typer.Argument(
            help="The model, or one version of it by tag or digest.",
            metavar="MODEL[:TAG]",
            callback=_check,
            autocompletion=model_versions,
        ),
    ],
    admin: Admin,
    wait: Annotated[bool, typer.Option(help="Wait until it is done.")] = True,
    timeout: Annotated[float | None, timeout_option("30m")] = None,
) -> None:
    """Replace the workers of a model that runs, without a lost call.

    A new worker is started first; then one after another leaves, answers its calls and ends.
    """
    client = AdminClient(admin)
    name, _, version = model.partition(":")
    document = client.restart(name, version)
    apps = {restart["app"] for restart in document["restarts"]}
    for line in _lines(document, apps):
        out.print(line, markup=False)
    if not wait:
        return
    _wait_until_done(client, name, apps, document, timeout or _DEFAULT_SECONDS)


def _wait_until_done(
    client: AdminClient, name: str, apps: set[str], document: dict[str, Any], seconds: float
) -> None:
    """Say how a restart goes on until it is over; exit code 1 where it failed.

    Raises:
        ControlError: when that takes too long, or the gateway does not come back.
    """
    started = answered = time.monotonic()
    said = _lines(document, apps)
    while any(restart["state"] == _UNDER_WAY for restart in document["restarts"]):
        if time.monotonic() - started > seconds:
            raise ControlError(f"given up after {seconds:g} s; the restart of {name} goes on all the same")
        time.sleep(WATCH_SECONDS)
        try:
            document = client.restarts(name)
        except ControlError:
            if time.monotonic() - answered > RESTART_SECONDS:
                raise
            continue
        answered = time.monotonic()
        document["restarts"] = [restart for restart in document["restarts"] if restart["app"] in apps]
        if len(document["restarts"]) < len(apps):
            raise ControlError(
                f"the restart of {name} has ended unfinished, as the gateway was started again or another "
                "version took over; see `kitserve status`, and restart it again where that is still of use"
            )
        lines = _lines(document, apps)
        for line in lines:
            if line not in said:
                out.print(line, markup=False)
        said = lines
    if any(restart["state"] == _FAILED for restart in document["restarts"]):
        raise typer.Exit(FAILED)
    out.print(f"{name}: restarted in {time.monotonic() - started:.0f} s", markup=False)


def _lines(document: dict[str, Any], apps: set[str]) -> list[str]:
    return [
        f"{document['model']} {restart['version']}: {_progress(restart)}"
        for restart in document["restarts"]
        if restart["app"] in apps
    ]


def _progress(restart: dict[str, Any]) -> str:
    replaced = f"{restart['workers'] - restart['left']} of {counted(restart['workers'], 'worker')} replaced"
    return f"{replaced}, then failed: {restart['message']}" if restart["state"] == _FAILED else replaced
