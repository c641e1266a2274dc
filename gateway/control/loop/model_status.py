"""What people are told of a model: its state, why it is so, and its versions. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from gateway.contract import Announcement, WorkerState
from gateway.control.loop.roles import Role, Roles
from gateway.control.loop.situation import Situation
from gateway.control.state.database import AppRoute
from gateway.control.state.rollout_status import rollout_status
from gateway.control.state.status import (
    GenerationStatus,
    ModelState,
    ModelStatus,
    RetryStatus,
    VersionStatus,
    WorkerStatus,
)
from gateway.control.state.versions import Version
from gateway.edge.routes import RoutingTable
from gateway.metrics.tokens import Tokens
from gateway.rollout.state import Phase, Stage


def model_status(name: str, roles: Roles, route: AppRoute, situation: Situation) -> ModelStatus:
    """Return the status of a model whose calls go by `route`.

    A role that failed decides the state, or else one that does not answer yet, or else the stable role; a
    rollout that failed or waits for a gate decides it where every role answers. Where the stable role alone
    failed, and a rollout is on its way, its canary decides: it takes over once it is ready.
    """
    unready = [role for role in roles.all() if not role.answers]
    failed = [role for role in unready if role.has_failed]
    deciding = failed or unready or list(roles.all())
    state = deciding[0].state
    rollout = situation.recorded.rollouts.get(name)
    if rollout is not None and roles.canary is not None and failed == [roles.stable]:
        deciding = [roles.canary, roles.stable]
        state = ModelState.LOADING if roles.canary.answers else roles.canary.state
    messages = [_message(role, roles) for role in deciding if role.message]
    if rollout is not None and not unready:
        if rollout.phase is Phase.DEGRADED:
            # What the config asks for is not in force; what served before still does.
            state = ModelState.FAILED
            messages.append(f"rollout {rollout.phase} ({rollout.reason}): {rollout.message}")
        elif rollout.stage is Stage.GATING:
            state = ModelState.LOADING
            messages.append(f"canary: {rollout.message}")
    return ModelStatus(
        name=name,
        state=state,
        message="; ".join(messages),
        versions=tuple(
            _version_status(version, route, situation) for version in _shown(roles, route, situation)
        ),
        rollout=None if rollout is None else rollout_status(rollout),
        retry=next((retry for role in deciding if (retry := _retry(role, situation))), None),
    )


def unreachable(
    models: Iterable[ModelStatus], routed: RoutingTable | None, trouble: str
) -> tuple[ModelStatus, ...]:
    """Return the same models where the edge could not be told of all: those that it has no way to load yet.

    Args:
        models: as they are apart from that.
        routed: the last table that the edge has taken; None before the first one.
        trouble: why it took no later one.
    """
    known = {route.model for route in (() if routed is None else routed.routes) if route.backends()}
    message = f"its workers are ready, but the edge does not route to them: {trouble}"
    return tuple(
        replace(model, state=ModelState.LOADING, message=message)
        if model.state in (ModelState.READY, ModelState.ASLEEP) and model.name not in known
        else model
        for model in models
    )


def _retry(role: Role, situation: Situation) -> RetryStatus | None:
    """Return when a role's kit is tried again, None where it is not."""
    retries = situation.recorded.retries
    return retries.get(role.kit if role.version is None else role.version.kind)


def _message(role: Role, roles: Roles) -> str:
    if role is roles.unresolved and not role.has_failed:
        return f"{role.kit}: {role.message}"
    return f"canary: {role.message}" if role is roles.canary else role.message


def _shown(roles: Roles, route: AppRoute, situation: Situation) -> list[Version]:
    """Return the versions to tell of: those that take calls, then those that the roles name."""
    named = [role.version.app for role in roles.all() if role.version is not None]
    apps = dict.fromkeys((route.stable, route.canary, *named))
    versions = situation.recorded.versions
    return [versions[app] for app in apps if app is not None and app in versions]


def _version_status(version: Version, route: AppRoute, situation: Situation) -> VersionStatus:
    workers = situation.workers(version.app)
    role, weight = "", 0
    if version.app == route.stable:
        role, weight = "stable", route.stable_weight
    elif version.app == route.canary:
        role, weight = "canary", route.weight
    return VersionStatus(
        tag=version.label,
        digest=str(version.digest),
        reference=str(version.reference),
        app=version.app,
        role=role,
        weight=weight,
        state=_version_state(version, situation),
        replicas=len(situation.ready_workers(version.app)),
        runtime=next((worker.runtime for worker in workers if worker.runtime), ""),
        note=next(filter(None, map(_note, workers)), ""),
        generation=_generation(workers),
        workers=tuple(map(_worker, situation.ready_workers(version.app))),
    )


def _worker(worker: Announcement) -> WorkerStatus:
    return WorkerStatus(
        worker.worker,
        worker.contained,
        worker.not_contained,
        worker.gpus or worker.device,
        worker.provider,
        worker.memory_bytes,
        worker.gpu_bytes,
    )


def _generation(workers: Iterable[Announcement]) -> GenerationStatus | None:
    """Return what a version's workers do with tokens; None where they do nothing with them."""
    language = [worker for worker in workers if worker.generating or worker.numbers.tokens_by_role]
    if not language:
        return None
    tokens = Tokens()
    for worker in language:
        tokens.add(worker.numbers.tokens)
    first, gaps = tokens.first, tokens.between
    return GenerationStatus(
        generating=sum(worker.generating for worker in language),
        waiting=sum(worker.queued for worker in language),
        input_tokens=tokens.input,
        cached_tokens=tokens.cached,
        output_tokens=tokens.output,
        first_token_seconds=first.total / first.observations if first.observations else None,
        tokens_per_second=gaps.observations / gaps.total if gaps.total else None,
    )


def _note(worker: Announcement) -> str:
    """Return what is worth knowing of a worker that answers calls all the same."""
    batching = f"not batched: {worker.not_batched}" if worker.not_batched else ""
    first_call = f"unproven, as its first call failed: {worker.first_call}" if worker.first_call else ""
    on_cpu = f"on the CPU, as `prefer-gpu` allows: {worker.gpu_trouble}" if worker.gpu_trouble else ""
    return "; ".join(filter(None, (batching, first_call, on_cpu)))


def _version_state(version: Version, situation: Situation) -> ModelState:
    if situation.ready_workers(version.app):
        return ModelState.READY
    if situation.failure(version) is not None:
        return ModelState.FAILED
    if situation.can_be_woken(version):
        return ModelState.ASLEEP
    is_pulling = any(worker.state is WorkerState.PULLING for worker in situation.workers(version.app))
    return ModelState.PULLING if is_pulling else ModelState.LOADING
