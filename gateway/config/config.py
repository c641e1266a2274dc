"""The config file as a user writes it. All faults in it are reported at once, each with its line."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import (
    AfterValidator,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from gateway.config.access import AllowedHost, AllowedOrigin, Keys, Tls
from gateway.config.admin_tls import AdminTls
from gateway.config.callers import Callers
from gateway.config.defaults import DEFAULTS, with_defaults
from gateway.config.faults import describe_faults, faults_at
from gateway.config.kits import READS_FILES, REGISTRY_FILES, Cache, Registry, Strict, Trust, fault
from gateway.config.models import Canary, Model, ModelSettings
from gateway.config.runtime_names import unknown_runtimes
from gateway.config.source import read_source
from gateway.config.tracing import Tracing
from gateway.config.variables import Variables
from gateway.config.yaml_file import FieldPath, dotted, read_yaml, shown
from gateway.errors import ConfigError, InvalidReference, NotTrusted
from gateway.kits.policy import Policy, judge_registry
from gateway.logs.limits import Logged
from gateway.oci.options import SourceOptions, kit_home
from gateway.oci.reference import LayoutReference, RegistryReference, parse_reference


class Address(Strict):
    """Where to listen, written `HOST:PORT`."""

    host: str
    port: Annotated[int, Field(ge=1, le=65535)]

    @field_validator("host")
    @classmethod
    def _host(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9._:*-]+", value):
            raise ValueError(f"{value!r} is not a host")
        return value

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        if isinstance(value, dict | Address):
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            raise fault(f"{value} is not HOST:PORT; write 127.0.0.1:{value}")
        if not isinstance(value, str):
            raise fault(f"{shown(value)} is not HOST:PORT, such as 127.0.0.1:8080")
        host, separator, port = value.rpartition(":")
        if not separator or not host or not re.fullmatch("[0-9]{1,5}", port):
            raise ValueError(f"{value!r} is not HOST:PORT, such as 127.0.0.1:8080")
        return {"host": host.strip("[]"), "port": int(port)}

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _web_address(value: str) -> str:
    if not re.match(r"https?://[^\s/]", value):
        raise ValueError(f"{value!r} is not an address, such as https://hooks.example.com/rollouts")
    return value


class GatewayConfig(Strict):
    """The whole config file."""

    listen: Address = Address(host="127.0.0.1", port=8080)
    """Where models are called, over HTTP and gRPC."""
    admin: Address = Address(host="127.0.0.1", port=8081)
    """Where status and metrics are read over TCP; changes need the socket in the home, or the token. Beyond
    loopback, so does reading."""
    admin_tls: AdminTls | None = None
    """TLS at `admin`; absent, it speaks HTTP in clear. It changes only with a restart."""
    access_log: Logged = "errors"
    """Which calls the edge logs, as JSON lines among what `kitserve serve` prints; of language models, also
    which are in the log. Their workers that run keep what they started with until they are replaced."""
    tracing: Tracing | None = None
    """Which calls are traced; absent, none. It changes only with a restart."""
    health: Address | None = None
    """Where `/v2/health/live` and `/v2/health/ready` are answered as well, also while clients have all
    connections of `listen`. It changes only with a restart."""
    callers: Callers = Callers()
    """How much callers may have at a time. It changes only with a restart."""
    tls: Tls | None = None
    """The certificate with which models are called over HTTPS; absent, over plain HTTP. It changes only with
    a restart, but its files at any time."""
    keys: Keys | None = None
    """Who may call; absent, anybody. It changes only with a restart, but its files at any time."""
    allowed_hosts: tuple[AllowedHost, ...] = ()
    """The names by which models may be called, besides loopback's. Empty, any name where `listen` is not on
    loopback. It changes only with a restart."""
    allowed_origins: tuple[AllowedOrigin, ...] = ()
    """The web pages that may call models from a browser, as `https://HOST`, or `'*'`. Empty, none where
    `listen` is on loopback. It changes only with a restart."""
    worker_tls: Literal["auto", "always", "never"] = "auto"
    """When workers are called over TLS, by an authority of each start's own; `auto`: on a Ray cluster alone.
    It changes only with a restart."""
    defaults: Annotated[ModelSettings | None, Field(exclude=True)] = None
    """What every model has that does not say otherwise. It is for config files: what `apply` sends says it of
    each model."""
    models: tuple[Model, ...] = ()
    """The models to serve, each under a name of its own."""
    registries: dict[str, Registry] = Field(default_factory=dict)
    """How registries are reached, by the host that references begin with, such as `127.0.0.1:5000`."""
    kitops_home: Path | None = None
    """Where the `kit` command keeps its storage and its logins; absent, where it does so by itself:
    `$KITOPS_HOME`, `$XDG_DATA_HOME/kitops` or `~/.local/share/kitops`."""
    cache: Cache = Cache()
    """How much disk the kits may take."""
    trust: Trust = Trust()
    """Which kits may be served, as any model."""
    webhooks: tuple[Annotated[str, AfterValidator(_web_address)], ...] = ()
    """The addresses that each event of a rollout is sent to."""

    @field_validator("access_log", mode="before")
    @classmethod
    def _off(cls, value: object) -> object:
        """Take false for the word off: YAML reads it so."""
        return "off" if value is False else value

    @field_validator("models")
    @classmethod
    def _distinct(cls, models: tuple[Model, ...]) -> tuple[Model, ...]:
        names = [model.name for model in models]
        repeated = [index for index, name in enumerate(names) if name in names[:index]]
        if repeated:
            raise faults_at(
                {(index, "name"): f"a model {names[index]!r} is written above" for index in repeated}
            )
        return models

    @field_validator("registries")
    @classmethod
    def _hosts(cls, registries: dict[str, Registry]) -> dict[str, Registry]:
        """Refuse a host with which no reference begins: its settings would be used for none."""
        faults: dict[FieldPath, str] = {}
        for host in registries:
            try:
                RegistryReference(host.lower(), "kit", "latest", None)
            except InvalidReference:
                faults[(host,)] = (
                    f"{host!r} is not the host of a registry; write it as references begin: "
                    "HOST.DOMAIN or HOST:PORT"
                )
        if faults:
            raise faults_at(faults)
        return registries

    @model_validator(mode="after")
    def _two_ports(self) -> GatewayConfig:
        if self.listen.port == self.admin.port:
            field = "admin" if "admin" in self.model_fields_set else "listen"
            raise faults_at({(field,): f"listen and admin both want port {self.listen.port}"})
        if self.health is not None and self.health.port in (self.listen.port, self.admin.port):
            raise faults_at({("health",): f"listen or admin wants port {self.health.port}, too"})
        return self

    @model_validator(mode="after")
    def _allowed_kits(self) -> GatewayConfig:
        faults: dict[FieldPath, str] = {}
        for index, model in enumerate(self.models):
            try:
                policy = self.policy(model)
            except ValueError as error:
                faults["models", index, "trust"] = str(error)
                continue
            kits: dict[FieldPath, str] = {("kit",): model.kit}
            if model.canary is not None:
                kits["canary", "kit"] = model.canary.kit
            for field, kit in kits.items():
                try:
                    judge_registry(parse_reference(kit), policy)
                except NotTrusted as error:
                    faults["models", index, *field] = str(error)
        if faults:
            raise faults_at(faults)
        return self

    def source_options(self) -> SourceOptions:
        """Return how kits are reached, as `gateway.oci` takes it."""
        registries = {host.lower(): registry.options() for host, registry in self.registries.items()}
        return SourceOptions(registries, self.kitops_home)

    def policy(self, model: Model | None = None) -> Policy:
        """Return which kits may be served as a model; without one, as any model."""
        return (self.trust if model is None else model.trust.over(self.trust)).policy()

    def model(self, name: str) -> Model | None:
        """Return the model of that name, None where there is none."""
        return next((model for model in self.models if model.name == name), None)

    def rooted(self, directory: Path) -> GatewayConfig:
        """Return the config with its relative paths made absolute from `directory`."""
        models = [
            _rooted(model, directory).model_copy(
                update={"canary": model.canary and _rooted(model.canary, directory)}
            )
            for model in self.models
        ]
        registries = {
            host: registry.model_copy(
                update={
                    name: directory / path
                    for name in REGISTRY_FILES
                    if (path := getattr(registry, name)) is not None
                }
            )
            for host, registry in self.registries.items()
        }
        home = directory / (self.kitops_home or kit_home())
        return self.model_copy(
            update={
                "models": tuple(models),
                "registries": registries,
                "kitops_home": home,
                "admin_tls": self.admin_tls and self.admin_tls.rooted(directory),
                "tls": self.tls and self.tls.rooted(directory),
                "keys": self.keys and self.keys.rooted(directory),
                "tracing": self.tracing and self.tracing.rooted(directory),
            }
        )


# Not at its first use, which may be in several threads at once.
GatewayConfig.model_rebuild()


def load_config(
    path: Path, needs_models: bool = False, runtimes: Sequence[str] | None = None
) -> GatewayConfig:
    """Read a config file; relative paths in it count from the working directory.

    Variables are read into it (see `variables`), but not where it comes over a pipe.

    Args:
        path: the file, or `-` for standard input.
        needs_models: as for `parse_config`.
        runtimes: as for `parse_config`.

    Raises:
        ConfigError: with one line for each fault in the file.
    """
    return read_config(path, needs_models, runtimes).rooted(Path.cwd())


def read_config(
    path: Path, needs_models: bool = False, runtimes: Sequence[str] | None = None
) -> GatewayConfig:
    """Read a config file as `load_config` does, but leave relative paths as they are written.

    Raises:
        ConfigError: with one line for each fault in the file.
    """
    source = read_source(path)
    variables = Variables(os.environ if source.is_file else None)
    return parse_config(source.text, source.name, needs_models, runtimes, variables=variables)


def parse_config(
    text: str,
    source: str = "config",
    needs_models: bool = False,
    runtimes: Sequence[str] | None = None,
    may_read_files: bool = True,
    variables: Variables | None = None,
) -> GatewayConfig:
    """Parse YAML (or JSON, which is YAML too) into a config; its models have its `defaults` then.

    Args:
        text: the config.
        source: its name in errors.
        needs_models: whether `models` must be written, as in a config that is put in force: an empty or
            unfinished file would stop all models.
        runtimes: the names of the runtimes that there are; None where that is not known, as on a machine
            from which a config is only sent.
        may_read_files: whether the text is of a config file, so that files are read that hold keys, and there
            may be `defaults`; else all must be in the text, and written out.
        variables: fills in variables of the environment; None where what looks like one is text.

    Raises:
        ConfigError: with one line for each fault in the text.
    """
    value, lines, faults = read_yaml(text, source, None if variables is None else variables.fill)
    if not isinstance(value, dict):
        raise ConfigError(source, ["line 1: a config is a mapping that starts with `models:`"])
    if DEFAULTS in value and not may_read_files:
        raise ConfigError(source, [f"{DEFAULTS}: only a config file has it; write it out for each model"])
    unfilled = {} if variables is None else variables.faults
    faults += [f"line {lines.get(path, 1)}: {dotted(path)}: {reason}" for path, reason in unfilled.items()]
    try:
        value, written = with_defaults(value, lines)
    except ValueError as error:
        raise ConfigError(source, [f"line {lines[DEFAULTS,]}: {error}"]) from None
    try:
        config = GatewayConfig.model_validate(value, context={READS_FILES: may_read_files})
    except ValidationError as error:
        # What could not be filled in is told once, and not again as a wrong value.
        details = [
            detail for detail in error.errors() if written.get(detail["loc"], detail["loc"]) not in unfilled
        ]
        faults += describe_faults(details, lines, GatewayConfig, written)
    else:
        if needs_models and "models" not in config.model_fields_set:
            faults.append("line 1: models: is missing; write the models to serve, or `models: []` for none")
        if runtimes is not None:
            faults += dict.fromkeys(unknown_runtimes(config.models, runtimes, lines, written))
    if faults:
        raise ConfigError(source, faults)
    return config


_Kit = TypeVar("_Kit", Model, Canary)


def _rooted(kit: _Kit, directory: Path) -> _Kit:
    """Return a model or canary with absolute paths in the references of its kit."""
    parents = tuple(_rooted_kit(parent, directory) for parent in kit.parents)
    return kit.model_copy(update={"kit": _rooted_kit(kit.kit, directory), "parents": parents})


def _rooted_kit(kit: str, directory: Path) -> str:
    reference = parse_reference(kit)
    if isinstance(reference, LayoutReference) and not reference.path.is_absolute():
        scheme, written, name = kit.split(":", 2)
        return f"{scheme}:{directory / written}:{name}"
    return kit
