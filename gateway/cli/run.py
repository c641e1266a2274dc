"""`kitserve run`: one kit by its reference, with no config, until Ctrl-C."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

import gateway
from gateway.cli.admin_client import AdminClient
from gateway.cli.first_call import FirstCall
from gateway.cli.kits import KitReference, PlainHttp, WantedVariant
from gateway.cli.options import Home, Output, check_model_name
from gateway.cli.progress import Reporter
from gateway.cli.run_kit import code_digests, pull_wanted, wanted
from gateway.cli.run_place import FIRST_PORT, HOST, run_place
from gateway.cli.serve import LogFormat, in_foreground, serve_config
from gateway.config.config import GatewayConfig, parse_config
from gateway.oci.reference import RegistryReference

_ANY_KIT = "registry.example.com/any:v1"


def run(
    reference: KitReference,
    home: Home,
    port: Annotated[
        int | None,
        typer.Option(
            "--port",
            "-p",
            help="Where to listen.",
            min=1,
            max=65535,
            show_default="8080, or the next free one",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            help="What clients call the model.",
            show_default="the last part of the reference's name",
            callback=check_model_name,
        ),
    ] = None,
    gpus: Annotated[
        float, typer.Option(help="GPUs for the model: whole ones, or a share of one.", min=0)
    ] = 0,
    gpu_memory: Annotated[
        str | None,
        typer.Option(
            help="What the model may take of a GPU's memory, such as 6GiB; the GPU is shared.",
            show_default="as much as the GPU has, or none without one",
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="What computes: cpu, gpu, prefer-gpu, or GPUs by index or UUID, such as 0,1.",
            show_default="a GPU where one is asked for",
        ),
    ] = None,
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="Let this kit run code of its own, as many pickles do.")
    ] = False,
    runtime: Annotated[str | None, typer.Option(help="The runtime.", show_default="by the files")] = None,
    file: Annotated[
        str | None, typer.Option(help="Which file of the kit is the model.", show_default="by the Kitfile")
    ] = None,
    variant: WantedVariant = None,
    plain_http: PlainHttp = False,
    log_format: LogFormat = Output.TEXT,
) -> None:
    """Pull a kit and serve it until Ctrl-C, with no config.

    Once it is ready, it says how it is called. It listens on 127.0.0.1 alone. Several runs go on beside
    each other, each at ports of its own.
    """

    def work(reporter: Reporter) -> None:
        kit_wanted = wanted(reference, variant, runtime=runtime, file=file, may_run_code=allow_code)
        settings: dict[str, Any] = {}
        asked = {"gpus": gpus, "gpu_memory": gpu_memory, "device": device}
        resources = {option: value for option, value in asked.items() if value is not None}
        # What cannot be is said before anything is pulled.
        _config({"models": [{"name": "model", "kit": _ANY_KIT, "resources": resources}]})
        if plain_http and isinstance(kit_wanted.reference, RegistryReference):
            settings["registries"] = {kit_wanted.reference.host: {"plain_http": True}}
        with run_place(home.absolute(), port) as place:
            if port is None and place.port != FIRST_PORT:
                reporter.say(f"port {FIRST_PORT} is taken: this run listens at {place.port}")
            kit = pull_wanted(kit_wanted, _config(settings).source_options(), home.absolute())
            # What was pulled is what is served, wherever the tag points by now.
            model: dict[str, Any] = {"name": name or kit_wanted.name, "kit": str(kit.reference)}
            model |= {"resources": resources, "file": file}
            if runtime is not None:
                model["runtime"] = runtime
            if allow_code:
                model["trust"] = {"allow_code": [str(digest) for digest in code_digests(kit)]}
            settings |= {"listen": f"{HOST}:{place.port}", "admin": f"{HOST}:{place.admin_port}"}
            first_call = FirstCall(model["name"], place.url, place.admin_url, reporter)
            title = f"Kitserve {gateway.__version__}: {kit.reference}"

            def look(_client: AdminClient, status: dict[str, Any] | None) -> None:
                if status is not None:
                    first_call.see(status)

            config = _config({**settings, "models": [model]})
            serve_config(config, title, place.home, None, reporter, look)

    in_foreground(log_format, work)


def _config(settings: dict[str, Any]) -> GatewayConfig:
    """Return the config of a run, as if it had been written.

    Raises:
        ConfigError: when an option cannot be.
    """
    return parse_config(json.dumps(settings), "kitserve run").rooted(Path.cwd())
