"""kitserve: serve, apply, status, inspect, pull, cache, rollout."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import gateway
from gateway.cli import cache, rollout, tables
from gateway.cli.admin_client import AdminClient
from gateway.cli.options import FAILED, MISUSED, Admin, Home, Output, OutputFormat, err, out, print_json
from gateway.cli.progress import SETTLED, Reporter
from gateway.config.config import GatewayConfig, load_config
from gateway.errors import ConfigError, ControlError, InvalidReference, KitserveError
from gateway.kits.library import Library, cache_directory
from gateway.kits.trust import Policy
from gateway.oci.reference import RegistryReference, parse_reference

if TYPE_CHECKING:
    from gateway.cli.lifecycle import Kitserve

_WATCH_SECONDS = 0.5
_FOLLOW_SECONDS = 600.0
_RESTART_SECONDS = 20.0

app = typer.Typer(
    help="Serve ModelKits by reference.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


ConfigFile = Annotated[Path, typer.Argument(help="The config file (YAML or JSON).", metavar="FILE")]
Registries = Annotated[
    Path | None,
    typer.Option("--config", help="A config file: its registries, trust and cache hold.", metavar="FILE"),
]
PlainHttp = Annotated[bool, typer.Option("--plain-http", help="Speak HTTP without TLS to this registry.")]
KitReference = Annotated[str, typer.Argument(help="The kit's reference.", metavar="REF")]


app.add_typer(cache.app, name="cache")
app.add_typer(rollout.app, name="rollout")


@app.command()
def serve(
    file: ConfigFile,
    home: Home,
    address: Annotated[str | None, typer.Option(help="Join the Ray cluster at this address.")] = None,
    log_format: Annotated[Output, typer.Option(help="How to print what happens.")] = Output.TEXT,
) -> None:
    """Serve the models of FILE until Ctrl-C."""
    # Here, because it takes as long to load as all other commands together.
    from gateway.cli.lifecycle import Stopped, catch_signals, running

    config = load_config(file)
    say = Reporter(out, as_json=log_format is Output.JSON)
    say(f"Kitserve {gateway.__version__}: {len(config.models)} model(s) from {file}, home {home}")
    catch_signals()
    try:
        with running(config, home.absolute(), address, say) as kitserve, say:
            _watch(kitserve, say)
    except Stopped:
        say("stopped")
        return
    raise ControlError("the edge is gone")


@app.command()
def apply(
    file: ConfigFile,
    admin: Annotated[
        str | None, typer.Option(help="The admin address; else the one in FILE.", metavar="HOST:PORT")
    ] = None,
    wait: Annotated[bool, typer.Option(help="Wait until every model is ready or has failed.")] = True,
) -> None:
    """Put FILE in force on a running Kitserve."""
    config = load_config(file)
    client = AdminClient(admin or str(config.admin))
    generation = client.apply(config)
    if not wait:
        return
    with Reporter(out) as say:
        status = _follow(client, generation, say)
    if any(model["state"] == "failed" for model in status["models"]):
        raise typer.Exit(FAILED)


@app.command()
def status(admin: Admin = "127.0.0.1:8081", output: OutputFormat = Output.TEXT) -> None:
    """Show the models of a running Kitserve, and their versions."""
    client = AdminClient(admin)
    document = client.status()
    deadline = time.monotonic() + _RESTART_SECONDS
    while document["wanted_generation"] and not document["generation"] and time.monotonic() < deadline:
        time.sleep(_WATCH_SECONDS)
        document = client.status()
    if output is Output.JSON:
        print_json(document)
        return
    out.print(tables.models_table(document["models"]))
    for model in document["models"]:
        if model["message"]:
            out.print(f"{model['name']}: {model['message']}", markup=False)
    if document["edge"]:
        out.print(f"edge: {document['edge']}", markup=False)
    if document["trouble"]:
        out.print(f"gateway: {document['trouble']}", markup=False)


@app.command()
def inspect(
    reference: KitReference,
    home: Home,
    output: OutputFormat = Output.TEXT,
    pull: Annotated[
        bool | None, typer.Option(help="Fetch the model to look into it (default: up to 100 MiB).")
    ] = None,
    config: Registries = None,
    plain_http: PlainHttp = False,
) -> None:
    """Show what a kit is: its Kitfile, layers, runtime, inputs and outputs, and whether it is trusted."""
    # Here, because the runtimes come with it.
    from gateway.cli.kit_document import describe

    library, policy = _library(reference, home, config, plain_http)
    with tables.PullProgress(err, reference) as progress:
        document = describe(library, parse_reference(reference), policy, pull, progress)
    if output is Output.JSON:
        print_json(document)
    else:
        for part in tables.kit_text(document):
            out.print(part)


@app.command()
def pull(
    reference: KitReference, home: Home, config: Registries = None, plain_http: PlainHttp = False
) -> None:
    """Bring a kit to this machine: pulled, verified and unpacked, ready to be served offline."""
    library, policy = _library(reference, home, config, plain_http)
    with tables.PullProgress(err, reference) as progress:
        kit = library.open(parse_reference(reference), progress, policy=policy)
    out.print(f"{kit.kit.reference}", markup=False)
    how = "was here already" if kit.from_cache else f"{kit.pulled_bytes} bytes pulled"
    out.print(f"{kit.path}  {how}", markup=False)


def _version(wanted: bool) -> None:
    if wanted:
        out.print(f"kitserve {gateway.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; errors raised on purpose become one message and an exit code."""
    try:
        app(prog_name="kitserve")
    except (ConfigError, InvalidReference) as error:
        err.print(f"kitserve: {error}", style="red", markup=False)
        sys.exit(MISUSED)
    except KitserveError as error:
        err.print(f"kitserve: {error}", style="red", markup=False)
        sys.exit(FAILED)


def _follow(client: AdminClient, generation: int, say: Reporter) -> dict[str, Any]:
    """Say what changes until every model is ready or has failed; returns the status then.

    The config is in force by now: a gateway that is started again meanwhile goes on with it.
    """
    started = answered = time.monotonic()
    while True:
        try:
            status = client.status()
            answered = time.monotonic()
            if status["generation"] >= generation:
                say.models(status)
                if all(model["state"] in SETTLED for model in status["models"]):
                    return status
        except ControlError:
            if time.monotonic() - answered > _RESTART_SECONDS:
                raise
        if time.monotonic() - started > _FOLLOW_SECONDS:
            text = f"not every model is ready after {_FOLLOW_SECONDS:.0f} s; see `kitserve status`"
            raise ControlError(text)
        time.sleep(_WATCH_SECONDS)


def _watch(kitserve: Kitserve, say: Reporter) -> None:
    """Say what changes until the end; returns when the edge is lost."""
    while not kitserve.ended.wait(_WATCH_SECONDS):
        with _gateway_may_restart():
            say.models(kitserve.client.status())
    if kitserve.lost is not None:
        raise kitserve.lost


@contextmanager
def _gateway_may_restart() -> Iterator[None]:
    """Pass over a gateway that does not answer: Serve starts it again, and calls do not need it."""
    try:
        yield
    except ControlError:
        time.sleep(_WATCH_SECONDS)


def _library(reference: str, home: Path, config: Path | None, plain_http: bool) -> tuple[Library, Policy]:
    """The library of this machine as a config has it, and what that config trusts."""
    known = load_config(config) if config is not None else GatewayConfig()
    sources = known.source_options()
    parsed = parse_reference(reference)
    if plain_http and isinstance(parsed, RegistryReference):
        plain = replace(sources.registry(parsed.host), plain_http=True)
        sources = replace(sources, registries={**sources.registries, parsed.host: plain})
    return Library(cache_directory(home), sources, known.cache.max_size), known.policy()
