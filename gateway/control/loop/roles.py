"""The roles of a model, stable and canary: which kit each names, and how far that is. Pure.

A role names a kit:

    the model has                        stable names           canary names           canary's share
    -----------------------------------  ---------------------  ---------------------  --------------------
    a kit                                the kit                -                      -
    a kit and a canary of fixed share    the kit                the canary's kit       as the config says
    a rollout, no kit on trial           the rollout's stable   -                      -
    a rollout, a kit on trial            the rollout's stable   the rollout's canary   the rollout's weight
    a kit, and a swap to it has failed   the kit before it      -                      -

Where a model has a rollout, and its kit is not resolved, the kit has a role too, in which it gets no calls:
`unresolved`. What runs goes on meanwhile.

How far a role is, by the first line that applies:

    the kit's reference cannot be resolved         FAILED    why
    it is not resolved yet                         PULLING   "resolving its reference", why not yet
    its version is tried again, and is only late   PULLING   why
    its version, or an equal one, was given up     FAILED    why
    enough of its workers are ready                READY     what is unusual about its reference
    it may sleep, and was ready once               ASLEEP    whether it wakes
    some of its workers are ready                  LOADING   how many of how many
    a worker loads, or else pulls                  LOADING   what the worker says of it
                                                   PULLING
    none of its workers reports                    LOADING   what Serve says of it

Enough are all the workers that a version begins with, or a single one where it takes calls already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.contract import Announcement, WorkerState
from gateway.control.loop.situation import Situation, routed_apps
from gateway.control.state.desired import DesiredModel
from gateway.control.state.status import ModelState
from gateway.control.state.versions import Version
from gateway.oci.reference import Reference, parse_reference

_ANSWERS = (ModelState.READY, ModelState.ASLEEP)


@dataclass(frozen=True, slots=True)
class Role:
    """The kit that a role names, and how far it is."""

    kit: Reference
    version: Version | None
    """What the kit means for the model; None before its reference is resolved."""
    state: ModelState
    message: str

    @property
    def has_failed(self) -> bool:
        """Whether its kit cannot be served as the config is now."""
        return self.state is ModelState.FAILED

    @property
    def answers(self) -> bool:
        """Whether a call to its version is answered, if only after it woke."""
        return self.state in _ANSWERS


@dataclass(frozen=True, slots=True)
class Roles:
    """A model's roles; `weight` is the percent of the calls that the canary is to take."""

    stable: Role
    canary: Role | None = None
    weight: int = 0
    unresolved: Role | None = None
    """The config's kit, while nobody knows what its reference means."""

    def all(self) -> tuple[Role, ...]:
        """Return the roles that there are, stable first."""
        return tuple(role for role in (self.stable, self.canary, self.unresolved) if role is not None)


def roles_of(model: DesiredModel, situation: Situation) -> Roles:
    """Return a model's roles, by the first table above."""
    rollout = situation.recorded.rollouts.get(model.name)
    if rollout is None:
        stable = _role(model, model.kit, situation)
        fallback = situation.recorded.fallbacks.get(model.name)
        if fallback is not None and stable.has_failed:
            # Without a version: it is not to be tried beside the one that is back.
            failed = Role(model.kit, None, ModelState.FAILED, stable.message)
            return Roles(_role(model, parse_reference(fallback), situation), unresolved=failed)
        if model.canary is None:
            return Roles(stable)
        return Roles(stable, _role(model, model.canary.kit, situation), model.canary.weight)
    stable = _role(model, parse_reference(rollout.stable), situation)
    # Also where the kit is named by digest, and is one that runs: only then is it what the config asks for.
    unresolved = None if model.kit in situation.recorded.pins else _unresolved(model.kit, situation)
    if not rollout.active_canary:
        return Roles(stable, unresolved=unresolved)
    canary = _role(model, parse_reference(rollout.active_canary), situation)
    return Roles(stable, canary, rollout.weight, unresolved)


def _role(model: DesiredModel, kit: Reference, situation: Situation) -> Role:
    """Return how far a kit is as a role of a model, by the second table above."""
    recorded = situation.recorded
    version = situation.version_for(model, kit)
    # A rollout's revision carries its digest: it stays, though its reference cannot be resolved now.
    if version is None or (kit in recorded.failures and model.name not in recorded.rollouts):
        return _unresolved(kit, situation)
    failure = situation.failure(version)
    if failure is not None:
        retry = situation.recorded.retries.get(version.kind)
        if retry is not None and not retry.has_failed:
            return Role(kit, version, ModelState.PULLING, failure)
        return Role(kit, version, ModelState.FAILED, failure)
    ready = len(situation.ready_workers(version.app))
    is_routed = version.app in routed_apps([situation.route(model.name)])
    if ready >= (1 if is_routed else version.serving.scaling.first):
        return Role(kit, version, ModelState.READY, _note(model, kit, situation))
    workers = situation.workers(version.app)
    starting = _starting(workers)
    if situation.can_be_woken(version):
        return Role(kit, version, ModelState.ASLEEP, _sleep_message(starting))
    if ready:
        message = f"{ready} of {version.serving.scaling.first} workers are ready"
        return Role(kit, version, ModelState.LOADING, message)
    if starting is not None:
        return Role(kit, version, ModelState(starting.state.value), starting.detail)
    trouble = situation.observed.apps.get(version.app, "")
    if situation.must_wait(version):
        trouble = trouble or "loads once the version before it has ended (`surge: 0`)"
    return Role(kit, version, ModelState.LOADING, trouble or "starting a worker")


def _note(model: DesiredModel, kit: Reference, situation: Situation) -> str:
    """Return what a person should know of how a kit's reference was resolved."""
    recorded = situation.recorded
    # A rollout's revision is the config's kit, pinned.
    is_pinned = kit.digest is not None and kit.digest == recorded.pins.get(model.kit)
    return recorded.notes.get(kit, "") or (recorded.notes.get(model.kit, "") if is_pinned else "")


def _unresolved(kit: Reference, situation: Situation) -> Role:
    """Return how far a kit is of which nobody knows what its reference means, by the same table."""
    failures = situation.recorded.failures
    if kit in failures:
        return Role(kit, None, ModelState.FAILED, failures[kit])
    retry = situation.recorded.retries.get(kit)
    reason = "" if retry is None else f": {retry.reason}"
    return Role(kit, None, ModelState.PULLING, f"resolving its reference{reason}")


def _starting(workers: Sequence[Announcement]) -> Announcement | None:
    """Return the worker that is the furthest on its way to ready, None where none is on it."""
    for state in (WorkerState.LOADING, WorkerState.PULLING):
        for worker in workers:
            if worker.state is state:
                return worker
    return None


def _sleep_message(starting: Announcement | None) -> str:
    """Return what a person should know of a version that has no ready worker, and may sleep."""
    if starting is None:
        return "the next call wakes it"
    return f"waking: {starting.detail or starting.state.value}"
