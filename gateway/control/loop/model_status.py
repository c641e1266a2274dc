"""What people are told of a model: its state, why it is so, and its versions. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gateway.contract import Announcement, WorkerState
from gateway.control.state.database import Routed
from gateway.control.state.rollout_status import rollout_status
from gateway.control.state.snapshot import Known, Observed
from gateway.control.state.status import ModelState, ModelStatus, VersionStatus
from gateway.control.state.versions import Version, kind_of
from gateway.control.state.workers import ready_workers
from gateway.rollout.state import Phase, Stage

ANSWERS = (ModelState.READY, ModelState.ASLEEP)
"""The states in which a call to a version is answered."""


@dataclass(frozen=True, slots=True)
class Role:
    """One role of one model: the kit it names, and how far that is."""

    kit: str
    version: Version | None
    state: ModelState
    message: str


def model_status(
    name: str,
    roles: Sequence[Role],
    routed: Routed,
    versions: Mapping[str, Version],
    observed: Observed,
    by_app: Mapping[str, list[Announcement]],
    known: Known,
) -> ModelStatus:
    rollout = known.rollouts.get(name)
    unready = [role for role in roles if role.state not in ANSWERS]
    failed = [role for role in unready if role.state is ModelState.FAILED]
    shown = list(
        dict.fromkeys(
            app
            for app in (routed.stable, routed.canary, *(role.version.app for role in roles if role.version))
            if app is not None and app in versions
        )
    )
    if failed:
        state, about = ModelState.FAILED, failed
    elif unready:
        state, about = unready[0].state, unready
    else:
        state, about = roles[0].state, list(roles)
    messages = [
        prefix + role.message
        for prefix, role in zip(("", "canary: "), roles, strict=False)
        if role in about and role.message
    ]
    if rollout is not None and rollout.phase is Phase.DEGRADED and not unready:
        # What the config asks for is not in force; what served before still does.
        state = ModelState.FAILED
        messages.append(f"rollout {rollout.phase} ({rollout.reason}): {rollout.message}")
    elif rollout is not None and rollout.stage is Stage.GATING and not unready:
        state = ModelState.LOADING
        messages.append(f"canary: {rollout.message}")
    return ModelStatus(
        name=name,
        state=state,
        message="; ".join(messages),
        versions=tuple(
            _version_status(versions[app], routed, observed, by_app.get(app, []), known.failures)
            for app in shown
        ),
        rollout=None if rollout is None else rollout_status(rollout),
    )


def _version_status(
    version: Version,
    routed: Routed,
    observed: Observed,
    workers: Sequence[Announcement],
    failures: Mapping[str, str],
) -> VersionStatus:
    role, weight = "", 0
    if version.app == routed.stable:
        role, weight = "stable", routed.stable_weight
    elif version.app == routed.canary:
        role, weight = "canary", routed.weight
    up = ready_workers(workers)
    states = [worker.state for worker in workers]
    if kind_of(version.app) in failures and not up:
        state = ModelState.FAILED
    elif up:
        state = ModelState.READY
    elif observed.may_sleep(version):
        state = ModelState.ASLEEP
    else:
        state = ModelState.PULLING if WorkerState.PULLING in states else ModelState.LOADING
    return VersionStatus(
        tag=version.label,
        digest=version.digest,
        reference=version.reference,
        app=version.app,
        role=role,
        weight=weight,
        state=state,
        replicas=len(up),
        runtime=next((worker.runtime for worker in workers if worker.runtime), ""),
        note=next((f"not batched: {worker.not_batched}" for worker in workers if worker.not_batched), ""),
    )


def how_asleep(workers: Sequence[Announcement]) -> str:
    """What a person should know of a version without a worker that answers."""
    for state in (WorkerState.LOADING, WorkerState.PULLING):
        for worker in workers:
            if worker.state is state:
                return f"waking: {worker.detail or state.value}"
    return "the next call wakes it"
