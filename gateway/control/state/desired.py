"""What is wanted: a config as Kitserve itself keeps it.

A config is read strictly, as its user wrote it, once: when it is applied. From then on, and in the stored
state, it is this value, which another release can read.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import cast

from gateway.config.config import GatewayConfig
from gateway.config.models import AUTO, Model
from gateway.kits.policy import ANYTHING, Policy
from gateway.logs.limits import Logged
from gateway.oci.options import SourceOptions
from gateway.oci.pinned import PinnedReference
from gateway.oci.reference import Reference
from gateway.payloads.rules import PayloadRules
from gateway.rollout.plan import Plan
from gateway.serving import Serving


@dataclass(frozen=True, slots=True)
class FixedCanary:
    """A second version whose share of the calls, in percent, stays as it is written."""

    kit: Reference
    weight: int
    file: str | None = None
    """The model's path within the kit; None: as the model has it."""
    parents: tuple[PinnedReference, ...] = ()
    """The kit's parents, nearest first, where the config says which; else what the Kitfiles' tags mean."""


@dataclass(frozen=True, slots=True)
class DesiredModel:
    """One model: the name that clients call, and what is to answer."""

    name: str
    kit: Reference
    serving: Serving = field(default_factory=Serving)
    runtime: str | None = None
    """The name of the runtime; None: by the kit's files."""
    file: str | None = None
    """The model's path within the kit; None: as the Kitfile has it."""
    canary: FixedCanary | None = None
    plan: Plan | None = None
    """How another kit takes over; None: at once, when it is ready."""
    surge: int = 1
    """How many versions may run beside the stable one; 0: it ends before the next one loads."""
    track: float | None = None
    """How often to look whether the kit's tag has moved, in seconds; None: never."""
    policy: Policy = ANYTHING
    payloads: PayloadRules | None = None
    """Which calls are recorded; None: none."""
    parents: tuple[PinnedReference, ...] = ()
    """The kit's parents, nearest first, where the config says which; else what the Kitfiles' tags mean."""

    @property
    def kits(self) -> tuple[Reference, ...]:
        """The references that the model names."""
        return (self.kit,) if self.canary is None else (self.kit, self.canary.kit)

    def file_of(self, reference: PinnedReference) -> str | None:
        """Return the model's path within a kit that this model names, or named before."""
        canary = self.canary
        if canary is not None and reference == PinnedReference.of(canary.kit, reference.digest):
            return canary.file or self.file
        return self.file

    def parents_of(self, reference: PinnedReference) -> tuple[PinnedReference, ...]:
        """Return the parents that the config gives to a kit; none to one that the model named before."""
        for kit in (self.canary, self):
            if kit is not None and kit.kit.digest is not None and reference.reference == kit.kit:
                return kit.parents
        return ()


@dataclass(frozen=True, slots=True)
class KitUse:
    """By which policy a kit is judged, and which parents the config gives to it."""

    policy: Policy
    parents: tuple[PinnedReference, ...] = ()

    @property
    def parent_references(self) -> tuple[Reference, ...]:
        """The parents as references."""
        return tuple(parent.reference for parent in self.parents)


# Those of `FixedSettings` that change while Kitserve runs.
_LIVE = ("listen", "admin", "access_log")


@dataclass(frozen=True, slots=True)
class FixedSettings:
    """What Kitserve is started with: most of it changes only with a new start."""

    listen: str = ""
    admin: str = ""
    access_log: str = ""
    admin_tls: str = ""
    """Its files, in one text; "" for none."""
    health: str = ""
    callers: str = ""
    tls: str = ""
    """This and `keys` as JSON; "" where the config has none."""
    keys: str = ""
    allowed_hosts: str = ""
    allowed_origins: str = ""
    worker_tls: str = "auto"
    tracing: str = ""
    """As JSON; "" where the config has none."""

    @property
    def logged(self) -> Logged:
        """Which calls are logged."""
        return cast("Logged", self.access_log or "errors")

    def changes(self, other: FixedSettings) -> list[str]:
        """Return the names of the settings that are different in another value."""
        return [
            field.name for field in fields(self) if getattr(self, field.name) != getattr(other, field.name)
        ]

    def restart_changes(self, other: FixedSettings) -> list[str]:
        """Return those of `changes` that need a restart of Kitserve."""
        return [name for name in self.changes(other) if name not in _LIVE]


@dataclass(frozen=True, slots=True)
class Desired:
    """A config in force. Its generation grows with each apply; 0 is before the first."""

    generation: int = 0
    models: tuple[DesiredModel, ...] = ()
    sources: SourceOptions = field(default_factory=SourceOptions)
    cache_limit: int | None = None
    """How many bytes kits may take on a node; None: all there is."""
    webhooks: tuple[str, ...] = ()
    fixed: FixedSettings = FixedSettings()

    def model(self, name: str) -> DesiredModel | None:
        """Return the model of that name."""
        return next((model for model in self.models if model.name == name), None)

    def uses(self, kit: Reference) -> tuple[KitUse, ...]:
        """Return how the models that name a kit use it, each way once."""
        uses = []
        for model in self.models:
            if model.kit == kit:
                uses.append(KitUse(model.policy, model.parents))
            elif model.canary is not None and model.canary.kit == kit:
                uses.append(KitUse(model.policy, model.canary.parents))
        return tuple(dict.fromkeys(uses))


def desired_from(config: GatewayConfig) -> Desired:
    """Return what a user's config asks for."""
    return Desired(
        models=tuple(_model(config, model) for model in config.models),
        sources=config.source_options(),
        cache_limit=None if config.cache.max_size is None else int(config.cache.max_size),
        webhooks=config.webhooks,
        fixed=FixedSettings(
            str(config.listen),
            str(config.admin),
            config.access_log,
            "" if config.admin_tls is None else config.admin_tls.model_dump_json(),
            *_of_callers(config),
            "" if config.tls is None else config.tls.model_dump_json(),
            "" if config.keys is None else config.keys.model_dump_json(),
            ",".join(config.allowed_hosts),
            ",".join(config.allowed_origins),
            config.worker_tls,
            "" if config.tracing is None else config.tracing.model_dump_json(),
        ),
    )


def _of_callers(config: GatewayConfig) -> tuple[str, str]:
    """Return what the config says of health and callers, "" where it says nothing."""
    callers = config.callers.model_dump_json(exclude_defaults=True)
    return "" if config.health is None else str(config.health), "" if callers == "{}" else callers


def _model(config: GatewayConfig, model: Model) -> DesiredModel:
    canary, canary_kit = model.canary, model.canary_reference()
    return DesiredModel(
        name=model.name,
        kit=model.reference(),
        serving=model.serving(),
        runtime=None if model.runtime == AUTO else model.runtime,
        file=model.file,
        canary=(
            None
            if canary is None or canary_kit is None
            else FixedCanary(canary_kit, canary.weight, canary.file, _pinned(canary.parents))
        ),
        # A version that ends before the next one loads is in no trial.
        plan=None if model.rollout is None or not model.rollout.surge else model.rollout.plan(),
        surge=1 if model.rollout is None else model.rollout.surge,
        track=model.track,
        policy=config.policy(model),
        payloads=None if model.payloads is None else model.payloads.rules(),
        parents=_pinned(model.parents),
    )


def _pinned(references: tuple[str, ...]) -> tuple[PinnedReference, ...]:
    return tuple(map(PinnedReference.parse, references))
