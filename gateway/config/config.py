"""What a user writes, and every fault of it at once, each with its line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from gateway.config.calls import Batching, Queue, Timeout
from gateway.config.kits import REGISTRY_FILES, Cache, Key, Registry, Seconds, Strict, Trust
from gateway.config.rollout import FIELDS as ROLLOUT_FIELDS
from gateway.config.rollout import Rollout
from gateway.config.yaml_file import Path_, read_yaml, written
from gateway.errors import ConfigError, InvalidReference, NotTrusted
from gateway.kits.trust import Policy, judge_registry
from gateway.oci.kit_storage import kit_home
from gateway.oci.options import SourceOptions
from gateway.oci.reference import LayoutReference, parse_reference
from gateway.serving import DEFAULT_LIMITS, Scaling, Serving
from gateway.wire.limits import WAKE_SECONDS
from runtimes.base import Resources as ModelResources

_RESOURCES = ModelResources()
_SCALING = Scaling()

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


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
        if not isinstance(value, str):
            return value
        host, separator, port = value.rpartition(":")
        if not separator or not host or not re.fullmatch("[0-9]{1,5}", port):
            raise ValueError(f"{value!r} is not HOST:PORT, such as 127.0.0.1:8080")
        return {"host": host.strip("[]"), "port": int(port)}

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Resources(Strict):
    """What each worker of the model may use."""

    cpus: Annotated[float, Field(gt=0, le=1024)] = _RESOURCES.cpus
    """How many threads the model computes with, rounded up. On a Ray cluster, Ray also reserves so many CPUs
    for the worker; on one machine it reserves none."""
    gpus: Annotated[float, Field(ge=0, le=64)] = _RESOURCES.gpus
    """How many GPUs Ray reserves for the worker: whole ones, or a share of one, such as 0.5."""

    @field_validator("gpus")
    @classmethod
    def _whole_or_shared(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError(f"{value:g} GPUs: a worker has a share of one GPU, or whole ones")
        return value


class Replicas(Strict):
    """How many workers run each version. A plain number fixes it: `replicas: 2`."""

    min: Annotated[int, Field(ge=0, le=256)] = _SCALING.min
    """The fewest workers. With 0, a version that nobody calls has no worker, and the next call starts one."""
    max: Annotated[int, Field(ge=1, le=256)] = _SCALING.max
    """The most workers; where only `min` is written, as many as that, but at least 1."""
    target_ongoing_requests: Annotated[float, Field(gt=0)] = _SCALING.target_ongoing_requests
    """How many calls a worker should have at a time. If there are more, workers are added."""
    upscale_delay: Seconds = _SCALING.upscale_delay
    """How long there must be too many calls before workers are added."""
    downscale_delay: Seconds = _SCALING.downscale_delay
    """How long there must be too few calls before workers are taken away."""
    downscale_to_zero_delay: Seconds = _SCALING.downscale_to_zero_delay
    """How long nobody must have called before the last worker is stopped, where `min` is 0."""
    wake_timeout: Annotated[Seconds, Field(le=WAKE_SECONDS)] = _SCALING.wake_timeout
    """How long a call waits for a version that has no worker yet, before it is answered with 503."""

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, value: object) -> object:
        if isinstance(value, int) and not isinstance(value, bool):
            if value == 0:
                raise ValueError("0 workers answer nobody; {min: 0, max: 1} has one only while it is called")
            return {"min": value, "max": value}
        if isinstance(value, dict) and isinstance(value.get("min"), int) and "max" not in value:
            return {**value, "max": value["min"] or 1}
        return value

    @model_validator(mode="after")
    def _ordered(self) -> Replicas:
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) is more than max ({self.max})")
        return self

    def scaling(self) -> Scaling:
        """Return the same as the value that versions carry."""
        return Scaling(**dict(self))


def _check_kit(value: str) -> str:
    try:
        parse_reference(value)
    except InvalidReference as error:
        raise ValueError(str(error)) from None
    return value


class Canary(Strict):
    """A second version that gets a fixed share of the calls."""

    kit: str
    """The reference of the second kit."""
    weight: Annotated[int, Field(ge=0, le=100)]
    """How many percent of the calls that name no version go to it."""

    _kit = field_validator("kit")(_check_kit)


class Model(Strict):
    """A name that clients call, and the kit that answers."""

    name: str
    """What clients call the model: letters, digits, `.`, `_` and `-`, at most 64, a letter or digit first."""
    kit: str
    """The reference of the kit."""
    canary: Canary | None = None
    """A second version that gets a fixed share of the calls. Not together with `rollout`."""
    runtime: str = "auto"
    """The name of the runtime that loads the model, such as `onnx`. `auto` chooses by the files' content."""
    resources: Resources = Resources()
    """What each worker may use."""
    replicas: Replicas = Replicas()
    """How many workers run each version: a plain number, or bounds."""
    batching: Batching | None = None
    """Which calls run together; absent, each runs alone."""
    queue: Queue = Queue()
    """How much may wait for each worker."""
    timeout: Timeout = DEFAULT_LIMITS.timeout
    """How long a call may wait for the model, whatever its caller says; at most 75s."""
    rollout: Rollout | None = None
    """How another kit takes over; absent, at once, as soon as its workers are ready."""
    track: Annotated[Seconds, Field(ge=1)] | None = None
    """How often to look whether the tag of `kit` has moved; absent, only when a config is applied."""
    trust: Trust = Trust()
    """Which kits this model may be; a rule that is written here replaces the file's rule of that name."""

    _kit = field_validator("kit")(_check_kit)

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if not MODEL_NAME.fullmatch(value):
            raise ValueError(f"{value!r} is not a model name: letters, digits, '.', '_' and '-', at most 64")
        return value

    @model_validator(mode="after")
    def _two_kits(self) -> Model:
        if self.canary is not None and self.canary.kit == self.kit:
            message = f"the canary is the same kit as the stable version ({self.kit})"
            raise _faults_at({("canary", "kit"): message})
        if self.track is not None and parse_reference(self.kit).digest is not None:
            raise _faults_at({("track",): f"{self.kit} is pinned to a digest, which never moves"})
        if self.canary is not None and self.rollout is not None:
            message = "with `rollout`, another `kit` is the canary by itself; write one of the two"
            raise _faults_at({("canary",): message})
        return self

    def serving(self) -> Serving:
        """Return how the model's versions are run."""
        return Serving(
            resources=ModelResources(**dict(self.resources)),
            batching=None if self.batching is None else self.batching.value(),
            queue=self.queue.limits(self.timeout),
            scaling=self.replicas.scaling(),
        )


class GatewayConfig(Strict):
    """The whole config file."""

    listen: Address = Address(host="127.0.0.1", port=8080)
    """Where models are called, over HTTP and gRPC. It changes only with a restart."""
    admin: Address = Address(host="127.0.0.1", port=8081)
    """Where status, config, rollouts and metrics are. Keep it private: it asks for no password. It changes
    only with a restart."""
    access_log: Literal["off", "errors", "all"] = "errors"
    """Which calls the edge logs on standard error, as JSON lines. It changes only with a restart."""
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
    webhooks: tuple[Annotated[str, Field(pattern=r"^https?://[^\s/]+")], ...] = ()
    """The addresses that each event of a rollout is sent to."""

    @field_validator("models")
    @classmethod
    def _distinct(cls, models: tuple[Model, ...]) -> tuple[Model, ...]:
        names = [model.name for model in models]
        again = [place for place, name in enumerate(names) if name in names[:place]]
        if again:
            raise _faults_at(
                {(place, "name"): f"a model {names[place]!r} is written above" for place in again}
            )
        return models

    @model_validator(mode="after")
    def _two_ports(self) -> GatewayConfig:
        if self.listen.port == self.admin.port:
            where = "admin" if "admin" in self.model_fields_set else "listen"
            raise _faults_at({(where,): f"listen and admin both want port {self.listen.port}"})
        return self

    @model_validator(mode="after")
    def _allowed_places(self) -> GatewayConfig:
        faults: dict[Path_, str] = {}
        for place, model in enumerate(self.models):
            try:
                policy = self.policy(model)
            except ValueError as error:
                faults["models", place, "trust"] = str(error)
                continue
            kits: dict[Path_, str] = {("kit",): model.kit}
            if model.canary is not None:
                kits["canary", "kit"] = model.canary.kit
            for field, kit in kits.items():
                try:
                    judge_registry(parse_reference(kit), policy)
                except NotTrusted as error:
                    faults["models", place, *field] = str(error)
        if faults:
            raise _faults_at(faults)
        return self

    def source_options(self) -> SourceOptions:
        """How kits are reached, as the OCI room takes it."""
        registries = {host.lower(): registry.options() for host, registry in self.registries.items()}
        return SourceOptions(registries, self.kitops_home)

    def policy(self, model: Model | None = None) -> Policy:
        """Which kits may be served, as a model or else as any."""
        return (self.trust if model is None else model.trust.over(self.trust)).policy()

    def model(self, name: str) -> Model | None:
        """Return the model of that name."""
        return next((model for model in self.models if model.name == name), None)

    def policies(self, kit: str) -> tuple[Policy, ...]:
        """Return the policies of the models that a kit's reference is used for, each once."""
        users = (model for model in self.models if kit in (model.kit, model.canary and model.canary.kit))
        return tuple(dict.fromkeys(self.policy(model) for model in users))

    def rooted(self, directory: Path) -> GatewayConfig:
        """The same config with relative paths made absolute from `directory`."""
        models = [
            model.model_copy(
                update={
                    "kit": _rooted_kit(model.kit, directory),
                    "canary": model.canary
                    and model.canary.model_copy(update={"kit": _rooted_kit(model.canary.kit, directory)}),
                }
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
            update={"models": tuple(models), "registries": registries, "kitops_home": home}
        )


def load_config(path: Path) -> GatewayConfig:
    """Read a config file; relative paths in it count from the working directory.

    Raises:
        ConfigError: with one line for each fault in the file.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), [f"cannot be read: {error}"]) from error
    return parse_config(text, str(path)).rooted(Path.cwd())


def parse_config(text: str, source: str = "config") -> GatewayConfig:
    """Parse YAML (or JSON, which is YAML too) into a config; `source` names it in errors."""
    value, lines, faults = read_yaml(text, source)
    if not isinstance(value, dict):
        raise ConfigError(source, ["line 1: a config is a mapping that starts with `models:`"])
    try:
        config = GatewayConfig.model_validate(value)
    except ValidationError as error:
        faults += [_fault(detail, lines) for detail in error.errors()]
    if faults:
        raise ConfigError(source, faults)
    return config


def _faults_at(messages: Mapping[Path_, str]) -> ValidationError:
    """Faults of fields below the one that is validated, each by its path from there."""
    details = [
        InitErrorDetails(type=PydanticCustomError("fault", "{text}", {"text": text}), loc=where, input=None)
        for where, text in messages.items()
    ]
    return ValidationError.from_exception_data("config", details)


def _rooted_kit(kit: str, directory: Path) -> str:
    reference = parse_reference(kit)
    if isinstance(reference, LayoutReference) and not reference.path.is_absolute():
        scheme, written, name = kit.split(":", 2)
        return f"{scheme}:{directory / written}:{name}"
    return kit


def _fault(detail: ErrorDetails, lines: Mapping[Path_, int]) -> str:
    where = detail["loc"]
    known = where
    while known not in lines and known:
        known = known[:-1]
    name = written(where)
    if detail["type"] == "extra_forbidden":
        parent = where[:-1]
        fields = _fields_at(parent)
        close = difflib.get_close_matches(str(where[-1]), fields, n=1)
        advice = f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(fields)}"
        return f"line {lines.get(known, 1)}: {name}: unknown field; {advice}"
    message = detail["msg"].removeprefix("Value error, ")
    return f"line {lines.get(known, 1)}: {name + ': ' if name else ''}{message}"


def _fields_at(path: Path_) -> list[str]:
    """The field names of the config model that `path` leads to."""
    table: dict[str, type[BaseModel]] = {
        "models": Model,
        "canary": Canary,
        "resources": Resources,
        "replicas": Replicas,
        "batching": Batching,
        "queue": Queue,
        "registries": Registry,
        "listen": Address,
        "admin": Address,
        "cache": Cache,
        "trust": Trust,
        "keys": Key,
        **ROLLOUT_FIELDS,
    }
    model: type[BaseModel] = GatewayConfig
    for step in path:
        model = table.get(str(step), model)
    return list(model.model_fields)
