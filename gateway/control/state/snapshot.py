"""What a tick of the reconcile loop goes by: what the gateway remembers, and what it sees. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from gateway.contract import Announcement, AppName
from gateway.control.state.database import AppRoute
from gateway.control.state.desired import Desired, DesiredModel
from gateway.control.state.status import RetryStatus
from gateway.control.state.versions import Kind, Version, version_of
from gateway.control.state.workers import ready_workers
from gateway.oci.pinned import PinnedReference
from gateway.oci.reference import Digest, Reference
from gateway.rollout.state import Rollout


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the gateway remembers."""

    desired: Desired
    pins: Mapping[Reference, Digest]
    """What each reference means, for the config in force."""
    failures: Mapping[Reference | Kind, str]
    """Why a reference could not be resolved, or a kind of version not be served; those too that wait to be
    tried again, a reference once it counts as failed."""
    versions: Mapping[AppName, Version]
    routes: Mapping[str, AppRoute]
    condemned: frozenset[AppName] = frozenset()
    """Applications that are being removed, whatever is wanted now."""
    notes: Mapping[Reference, str] = field(default_factory=dict)
    """What a person should know of how a reference was resolved."""
    rollouts: Mapping[str, Rollout] = field(default_factory=dict)
    """How far the rollouts are, by model; a revision is a reference that is pinned to its digest, as text."""
    earlier: Mapping[tuple[str, PinnedReference], Version] = field(default_factory=dict)
    """How each kit was run for a model before its version was removed."""
    retries: Mapping[Hashable, RetryStatus] = field(default_factory=dict)
    """Those of references and kinds of version that failed for a reason that may pass."""
    fallbacks: Mapping[str, str] = field(default_factory=dict)
    """By model, the revision that served before a swap whose next version cannot be loaded, as text."""
    _deployed: Mapping[str, Sequence[Version]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        deployed: dict[str, list[Version]] = {}
        for app, version in self.versions.items():
            if app not in self.condemned:
                deployed.setdefault(version.model, []).append(version)
        object.__setattr__(self, "_deployed", deployed)

    def deployed(self, model: str) -> Sequence[Version]:
        """Return a model's versions that are not being removed."""
        return self._deployed.get(model, ())


@dataclass(frozen=True, slots=True)
class Observed:
    """What is there now: Serve's applications, with what is wrong with each, and the workers that report."""

    apps: Mapping[AppName, str]
    workers: Sequence[Announcement]
    proven: frozenset[AppName] = frozenset()
    """Applications of which a worker was ready since they were deployed, so that they may sleep."""
    asleep: frozenset[AppName] = frozenset()
    """Applications that sleep, until a worker is ready: calls are held for them also under other bounds."""
    failing: Mapping[AppName, str] = field(default_factory=dict)
    """Applications without a ready worker of which one could not load, and why; Serve may start another."""

    def can_be_woken(self, version: Version) -> bool:
        """Tell whether a version answers also while it has no worker."""
        may_sleep = version.serving.scaling.may_sleep or version.app in self.asleep
        return may_sleep and version.app in self.proven

    def answers(self, version: Version) -> bool:
        """Tell whether a call to a version is answered, if only after it woke."""
        return bool(ready_workers(self.workers, version.app)) or self.can_be_woken(version)


def version_for(model: DesiredModel, kit: Reference, recorded: Recorded) -> Version | None:
    """Return the version that a kit's reference means for a model now; None before it is resolved.

    A revision of the model's rollout, or of before a swap that failed, carries its digest, whatever its tag
    means by now. One that the config does not ask for is the version that is, or was, deployed for it:
    settings that are meant for another kit are not tried on it.
    """
    rollout = recorded.rollouts.get(model.name)
    revisions = () if rollout is None else (rollout.stable, rollout.canary, rollout.previous)
    is_revision = str(kit) in (*revisions, recorded.fallbacks.get(model.name))
    digest = kit.digest if is_revision else recorded.pins.get(kit)
    if digest is None:
        return None
    version = version_of(model, PinnedReference.of(kit, digest), recorded.desired.generation)
    deployed = recorded.deployed(model.name)
    for earlier in deployed:
        if earlier.kind == version.kind:
            # The application of an earlier config, run as this one says.
            is_same = earlier.serving == version.serving
            version = earlier if is_same else replace(earlier, serving=version.serving)
    if not is_revision or version.reference == _reference_asked_for(model, recorded):
        return version
    same_kit = [earlier for earlier in deployed if earlier.reference == version.reference]
    route = recorded.routes.get(model.name, AppRoute())
    # Of several, the one that takes calls.
    same_kit.sort(key=lambda earlier: earlier.app not in (route.stable, route.canary))
    last = recorded.earlier.get((version.model, version.reference))
    if not same_kit and last is not None and last.kind != version.kind:
        return replace(last, app=AppName(f"{last.kind}.{recorded.desired.generation}"))
    return version if not same_kit or same_kit[0].kind == version.kind else same_kit[0]


def _reference_asked_for(model: DesiredModel, recorded: Recorded) -> PinnedReference | None:
    """Return what the config's kit means; None before it is resolved."""
    digest = recorded.pins.get(model.kit)
    return None if digest is None else PinnedReference.of(model.kit, digest)
