"""The gateway as it would be with another config: what it remembers, and what its next tick would do. Pure.

The rollout machine and the reconcile loop decide here as they do for real.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from gateway.contract import AppName
from gateway.control.loop.reconcile import Plan, reconcile
from gateway.control.rollouts.observation import config_events, first_rollout
from gateway.control.state.database import AppRoute
from gateway.control.state.desired import Desired, DesiredModel
from gateway.control.state.snapshot import Observed, Recorded, version_for
from gateway.control.state.versions import Kind, Version, version_of
from gateway.oci.pinned import PinnedReference
from gateway.oci.reference import Digest, Reference
from gateway.rollout.machine import advance
from gateway.rollout.state import Rollout


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """What is remembered once a config is in force, and what the first tick after that does."""

    recorded: Recorded
    plan: Plan

    def version(self, model: DesiredModel, kit: Reference) -> Version | None:
        """Return the version that a model's kit means; None where it cannot be resolved."""
        return version_for(model, kit, self.recorded)

    def rollout(self, model: str) -> Rollout | None:
        """Return a model's rollout; None where it has none."""
        return self.recorded.rollouts.get(model)

    def deployed(self, model: str) -> list[Version]:
        """Return the versions of a model that Serve is to be told of."""
        return [version for version in (*self.plan.deploy, *self.plan.swaps) if version.model == model]


def with_config(
    recorded: Recorded,
    observed: Observed,
    desired: Desired,
    pins: Mapping[Reference, Digest],
    failures: Mapping[Reference | Kind, str],
) -> Hypothesis:
    """Return how things are once another config is in force, and its references mean what `pins` say.

    Args:
        recorded: what is remembered now.
        observed: what there is now.
        desired: what is to be wanted; its generation is the next one.
        pins: what its references mean.
        failures: why others cannot be resolved. What failed before is tried again, as at every apply.
    """
    desired = replace(desired, generation=recorded.desired.generation + 1)
    after = replace(recorded, desired=desired, pins=pins, failures=failures, notes={}, retries={})
    rollouts = {
        model.name: rollout
        for model in desired.models
        if (rollout := _rollout(model, recorded.rollouts.get(model.name), after)) is not None
    }
    after = replace(after, rollouts=rollouts)
    return Hypothesis(after, reconcile(after, observed))


def _rollout(model: DesiredModel, before: Rollout | None, recorded: Recorded) -> Rollout | None:
    """Return a model's rollout once it heard what the config asks for."""
    if model.plan is None:
        return None
    rollout = before or first_rollout(model, model.plan, recorded)
    if rollout is None:
        return None
    recorded = replace(recorded, rollouts={**recorded.rollouts, model.name: rollout})
    for event in config_events(model, model.plan, rollout, recorded):
        rollout, _ = advance(rollout, event, rollout.clock)
    return rollout


def serving(desired: Desired, pins: Mapping[Reference, Digest]) -> tuple[Recorded, Observed]:
    """Return what a gateway remembers and sees that serves a config, for one that only a file has."""
    versions: dict[AppName, Version] = {}
    routes: dict[str, AppRoute] = {}
    for model in desired.models:
        deployed = [
            version_of(model, PinnedReference.of(kit, pins[kit]), desired.generation)
            for kit in model.kits
            if kit in pins
        ]
        versions |= {version.app: version for version in deployed}
        if deployed:
            canary = deployed[1].app if len(deployed) > 1 else None
            weight = model.canary.weight if model.canary is not None and canary is not None else 0
            routes[model.name] = AppRoute(deployed[0].app, canary, weight)
    recorded = Recorded(desired=desired, pins=pins, failures={}, versions=versions, routes=routes)
    return recorded, Observed(dict.fromkeys(versions, ""), ())
