"""What the gateway goes by: what it remembers, and what it sees. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gateway.config.config import Model
from gateway.contract import Announcement
from gateway.control.state.database import Desired, Routed
from gateway.control.state.rollout_status import digest_of
from gateway.control.state.versions import Version, version_of
from gateway.rollout.state import Rollout


@dataclass(frozen=True, slots=True)
class Known:
    """What the gateway remembers."""

    desired: Desired
    pins: Mapping[str, str]
    """Reference to digest, for the config in force."""
    failures: Mapping[str, str]
    """Reference or kind of app to the reason why it failed."""
    versions: Mapping[str, Version]
    routed: Mapping[str, Routed]
    condemned: frozenset[str] = frozenset()
    """Apps that are being removed, whatever is wanted now."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """Reference to what a person should know of how it was resolved."""
    rollouts: Mapping[str, Rollout] = field(default_factory=dict)
    """How far the rollouts are, by model; a revision is a reference that is pinned to its digest."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What is there now: Serve's applications with what Serve says of them, and workers heard of late."""

    apps: Mapping[str, str]
    workers: Sequence[Announcement]
    proven: frozenset[str] = frozenset()
    """Apps of which a worker was ready since they were deployed, so that they may sleep."""

    def may_sleep(self, version: Version) -> bool:
        """Whether a version answers also while it has no worker."""
        return version.may_sleep and version.app in self.proven


def version_for(model: Model, kit: str, known: Known) -> Version | None:
    """The version that a kit's reference means for a model now; None before it is resolved.

    A revision of a rollout carries its digest, whatever its tag means by now.
    """
    rollout = known.rollouts.get(model.name)
    if rollout is not None and kit in (rollout.stable, rollout.canary, rollout.previous):
        digest = digest_of(kit)
    elif kit in known.pins:
        digest = known.pins[kit]
    else:
        return None
    config = known.desired.config
    wanted = version_of(model, kit, digest, known.desired.generation, config.policy(model))
    return _existing_or_new(wanted, known)


def _existing_or_new(version: Version, known: Known) -> Version:
    """The app of an earlier config that does the same, if it stays; else a new one."""
    for app, earlier in known.versions.items():
        if earlier.fingerprint == version.fingerprint and app not in known.condemned:
            return earlier
    return version
