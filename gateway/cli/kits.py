"""`kitserve inspect` and `kitserve pull`: one kit, on this machine, with no Kitserve running."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from gateway.cli import tables
from gateway.cli.completion import references
from gateway.cli.options import FAILED, Home, Output, OutputFormat, err, out, print_json, private_home
from gateway.cli.progress import PullProgress
from gateway.config.config import GatewayConfig, load_config
from gateway.kits.library import Library, cache_directory
from gateway.kits.policy import Policy
from gateway.oci.reference import Reference, RegistryReference, parse_reference
from gateway.oci.variant import Variant

KitReference = Annotated[
    str, typer.Argument(help="The kit's reference.", metavar="REF", autocompletion=references)
]
Settings = Annotated[
    Path | None,
    typer.Option("--config", help="Use the registries, trust and cache of this config.", metavar="FILE"),
]
PlainHttp = Annotated[bool, typer.Option("--plain-http", help="Use HTTP without TLS for this registry.")]


WantedVariant = Annotated[
    list[str] | None,
    typer.Option(help="The kit of an index: each label that it has, or `auto`.", metavar="NAME=VALUE"),
]


def inspect(
    reference: KitReference,
    home: Home,
    output: OutputFormat = Output.TEXT,
    pull: Annotated[
        bool | None, typer.Option(help="Pull the model to inspect it too.", show_default="up to 100 MiB")
    ] = None,
    config: Settings = None,
    plain_http: PlainHttp = False,
    runtime: Annotated[str | None, typer.Option(help="The model's `runtime` in the config.")] = None,
    file: Annotated[str | None, typer.Option(help="The model's `file` in the config.")] = None,
    variant: WantedVariant = None,
) -> None:
    """Show what a kit is, and whether it can be served.

    Its Kitfile, layers, runtime, inputs and outputs are shown. It is judged as it would be for serving, up to
    the model's engine. Where it cannot be served, the exit code is 1.
    """
    # Imported here, because the runtimes come with it.
    from gateway.cli.kit_document import kit_document

    library, policy = _library(reference, home, config, plain_http)
    with PullProgress(err, reference) as progress:
        document = kit_document(
            library, wanted_reference(reference, variant), policy, pull, progress, runtime=runtime, file=file
        )
    if output is Output.JSON:
        print_json(document)
    else:
        for part in tables.kit_text(document):
            out.print(part)
    if document["servable"] is False:
        raise typer.Exit(FAILED)


def pull(
    reference: KitReference,
    home: Home,
    config: Settings = None,
    plain_http: PlainHttp = False,
    variant: WantedVariant = None,
) -> None:
    """Pull, verify and unpack a kit, so that it can be served offline."""
    library, policy = _library(reference, home, config, plain_http)
    with PullProgress(err, reference) as progress:
        unpacked = library.open(wanted_reference(reference, variant), progress, policy=policy)
    out.print(f"{unpacked.kit.reference}", markup=False)
    if unpacked.kit.choice is not None:
        out.print(unpacked.kit.choice.reason or f"variant {unpacked.kit.choice.labels}", markup=False)
    origin = "already in the cache" if unpacked.from_cache else f"{unpacked.pulled_bytes} bytes pulled"
    out.print(f"{unpacked.path}  {origin}", markup=False)


def wanted_reference(text: str, variant: list[str] | None) -> Reference:
    """Read a reference, with the variant that the option names."""
    reference = parse_reference(text)
    return replace(reference, variant=Variant.of_arguments(variant)) if variant else reference


def _library(reference: str, home: Path, file: Path | None, plain_http: bool) -> tuple[Library, Policy]:
    """Open the library of this machine with the settings of a config file, and the policy of that file."""
    config = load_config(file) if file is not None else GatewayConfig()
    sources = config.source_options()
    parsed = parse_reference(reference)
    if plain_http and isinstance(parsed, RegistryReference):
        registry = replace(sources.registry(parsed.host), plain_http=True)
        sources = replace(sources, registries={**sources.registries, parsed.host: registry})
    cache = cache_directory(private_home(home))
    return Library(cache, sources, config.cache.max_size, say_wait), config.policy()


def say_wait(what: str) -> None:
    """Tell what a library waits for."""
    err.print(what, markup=False)
